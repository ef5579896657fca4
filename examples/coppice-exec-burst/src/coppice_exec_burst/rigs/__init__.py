"""Every test_*.py here with a RIG is a rig."""
