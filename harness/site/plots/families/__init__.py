"""Which charts there are: a module has one `FAMILY`, and is found by being here."""
