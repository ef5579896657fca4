"""The sandboxes of API keys: their lifecycle, storage, snapshots and usage."""
