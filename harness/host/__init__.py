"""This machine: runs and what they leave behind, locks, control groups, identities, memory."""
