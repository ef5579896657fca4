"""Compatibility with unmodified SDKs, each in its own environment."""
