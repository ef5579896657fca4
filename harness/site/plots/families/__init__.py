"""The families of charts: every module here has a `FAMILY` and is found automatically."""
