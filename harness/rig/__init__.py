"""Everything around a measurement: a rig's description, its record, its progress, its tasks."""
