"""Requests to a sandbox itself: processes, files, code, and the ports of its own servers."""
