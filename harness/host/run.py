"""One run of the harness: its id, its directory, and the lock that shows that it is alive.

Everything a run creates carries its id: processes have it in their environment, files are in its
directory, and the lease files of its addresses contain it. The run keeps a lock on a file in its
directory; when that lock is free, the run is dead.
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
"""The environment variable of a run's processes that names the run's directory."""
NAME_PREFIX = "coppice-"
"""Prefix of the name of every object that a run creates outside of its directory."""
LOCK = "owner.lock"
JOURNAL = "journal.jsonl"
STATE = "state"
"""In the run of a gateway: the file that names the directory of its persistent state. While it is
there, a successor of the gateway can take over the run, and its sandboxes with it."""
SAVED, DATABASE = "saved", "gateway.sqlite"
"""In that directory: the directory of saved sandboxes, and the database."""
LEASE_BEGUN = "."
"""Prefix of a file that will be linked as a lease; the run's id and a dot follow."""


def new_run_id() -> str:
    """UTC time in seconds and eight random hex digits; sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Run:
    """A run that is alive. `directory` is its own; `leases` is shared by all runs.

    `at_end` closes resources that last as long as the run, such as a daemon that its sandboxes
    share. `taken_over`: a gateway that is gone has begun it.
    """

    id: str
    directory: Path
    leases: Path
    at_end: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, compare=False)
    taken_over: bool = field(default=False, compare=False)

    @property
    def goes_on(self) -> bool:
        """Whether a successor takes the run over when this process ends: what its sandboxes use
        must then be left as it is."""
        return (self.directory / STATE).exists()

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of every process of this run: a few variables, and `VARIABLE`."""
        kept = ("PATH", "HOME", "LANG", "TERM")
        return {name: os.environ[name] for name in kept if name in os.environ} | {
            VARIABLE: str(self.directory)
        }

    @property
    def mark(self) -> str:
        """The part of the id used in names of kernel objects, which must be short."""
        return self.id[-8:]

    def object_name(self, id: str) -> str:
        """The name of a jail, virtual machine or dataset of this run (29 bytes)."""
        return f"{NAME_PREFIX}{self.mark}-{id}"

    def note(self, event: str, **facts: Any) -> None:
        """Append an event to the run's journal, with monotonic and UTC times."""
        entry = {"at": time.monotonic(), "utc": datetime.now(UTC).isoformat(), "event": event}
        with (
            contextlib.suppress(FileNotFoundError),
            (self.directory / JOURNAL).open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(entry | facts, default=str) + "\n")
