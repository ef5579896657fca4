"""Selects from the records what pages show, and makes machine-readable files. Renders no page."""
