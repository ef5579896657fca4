"""Substrates and what they make: sandboxes, checkpoints, pools."""
