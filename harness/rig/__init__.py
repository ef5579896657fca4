"""What stands around a measurement: the rig's description, its record, its progress, its tasks."""
