"""Sandboxes by API key: their states, what is stored of them, snapshots, what they use."""
