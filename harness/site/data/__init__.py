"""Picks from the records what pages show. Reads samples and renders nothing."""
