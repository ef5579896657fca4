"""E2B's operations on sandboxes over HTTP, checked against openapi.yaml."""
