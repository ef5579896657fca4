"""A rig for Coppice, in rigs/."""
