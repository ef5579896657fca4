"""The subcommands of `coppice`: one file each, found by its name.

A command module has `HELP` (one line), `arguments(parser)` and `main(options) -> int`.
"""
