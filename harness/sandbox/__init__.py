"""Substrates, and the sandboxes, checkpoints and pools that they make."""
