"""Importing the harness needs nothing that only Linux has. FreeBSD is simulated: names that its
Python lacks are removed before anything is imported."""

from __future__ import annotations

import subprocess
import sys

from tests.commands.tools import ROOT

CHILD = """
import os, socket, sys
# Third-party packages check the system themselves.
import concurrent.futures, ctypes, fastjsonschema, psutil, pytest, pytest_benchmark.fixture
import sh, subprocess, yaml
sys.modules["sqlite3"] = None  # a package of its own there
sys.modules["ssl"] = None  # a Python may be built without it, and no rig there needs it
sys.platform = "freebsd13"
for module, names in {
    os: ("sched_getaffinity", "sched_setaffinity", "memfd_create", "MFD_CLOEXEC", "pidfd_open",
         "setns", "unshare", "eventfd", "O_TMPFILE", "O_PATH"),
    socket: ("AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG", "SO_MARK"),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
from pathlib import Path
exists, is_there = Path.exists, Path.read_text
def linux(path):
    return str(path).startswith(("/proc", "/sys"))
def read(path, *more, **options):
    if linux(path):
        raise FileNotFoundError(path)
    return is_there(path, *more, **options)
Path.exists = lambda path: not linux(path) and exists(path)
Path.read_text = read
from harness import cli
cli.parser()  # every command, and every rig with its options
import harness.procedures.packet_filters, harness.sandbox.bhyve, harness.sandbox.jail
print("imported")
"""


def test_commands_rigs_and_substrates_load_on_a_python_of_freebsd() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    assert (done.returncode, done.stdout) == (0, "imported\n"), done.stderr
