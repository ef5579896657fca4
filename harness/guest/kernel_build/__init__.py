"""Builds a slim guest kernel from the distribution's source package (`coppice kernel build`)."""
