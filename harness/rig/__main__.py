"""Prints the tasks of our rigs in mise's format: python -m harness.rig > rigs/tasks.toml"""

from harness.rig.discovery import discover, table
from harness.rig.tasks import as_toml

print(as_toml(table(discover().found)), end="")
