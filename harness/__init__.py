"""Coppice: measures what people claim about sandboxes, on your machine."""

__version__ = "0.1.0"
