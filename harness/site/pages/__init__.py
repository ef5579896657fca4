"""The pages: one file each, found by its PAGE (see harness/site/builder/page.py)."""
