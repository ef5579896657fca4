"""The E2B API over sandboxes of this host: what the unmodified SDK talks to."""
