"""Builds the site: renders templates, checks links, writes only what changed."""
