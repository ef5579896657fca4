"""One run of the harness: its id, its directory, and the lock that tells whether it still lives.

Everything a run creates is marked with its id: processes carry it in their environment, files
stand in its directory, addresses in lease files that name it. The directory holds a lock file that
the run keeps locked, so a run that was killed is told from one that lives by trying that lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

VARIABLE = "COPPICE_RUN"
"""In the environment of every process that a run starts: the run's directory."""
NAME_PREFIX = "coppice-"
"""Begins the name of whatever a run makes outside of its directory."""
LOCK = "owner.lock"
JOURNAL = "journal.jsonl"
LEASE_BEGUN = "."
"""Prefix of a file that is about to become a lease; its run's id follows, and a dot."""


def new_run_id() -> str:
    """UTC time to the second and eight random hexadecimal digits; sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Run:
    """A living run. `directory` is its own; `leases` is shared with every other run.

    `at_end` closes what lives as long as the run, such as a daemon that all its sandboxes share.
    """

    id: str
    directory: Path
    leases: Path
    at_end: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, compare=False)

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of every process of this run: small, and marked."""
        kept = ("PATH", "HOME", "LANG", "TERM")
        return {name: os.environ[name] for name in kept if name in os.environ} | {
            VARIABLE: str(self.directory)
        }

    @property
    def mark(self) -> str:
        """What this run's objects in a kernel are called by, where names must be short."""
        return self.id[-8:]

    def object_name(self, id: str) -> str:
        """The name of a jail, virtual machine or data set of this run (29 bytes)."""
        return f"{NAME_PREFIX}{self.mark}-{id}"

    def note(self, event: str, **facts: Any) -> None:
        """Add a line to the run's journal: what was done, with monotonic and UTC times."""
        line = {"at": time.monotonic(), "utc": datetime.now(UTC).isoformat(), "event": event}
        with contextlib.suppress(FileNotFoundError), (self.directory / JOURNAL).open("a") as file:
            file.write(json.dumps(line | facts, default=str) + "\n")
