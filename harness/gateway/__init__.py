"""The E2B API for sandboxes on this host, for the unmodified SDK."""
