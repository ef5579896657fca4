"""Requests to a sandbox: processes, files, code, and the ports of its servers."""
