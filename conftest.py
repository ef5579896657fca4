"""Rigs and tests share one plugin; installed, pytest finds it by itself."""

pytest_plugins = ("harness.rig.plugin", "harness.rig.short_options")
