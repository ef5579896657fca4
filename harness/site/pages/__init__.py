"""The pages: one file each, found by its PAGE (see harness/site/page.py)."""
