"""Kernel samepage merging for the processes of one run, and the host's own settings back after it.

Only processes started through `program()` are merged, and whatever else on this host asked for it
before. The settings that were found stand in the run's directory while ours hold, so that they are
put back after a crash too (harness/host/leftovers.py). The scanner is the whole host's, and runs
have several directories: who sets it up locks it, and numbers that only we write tell what is ours
where that directory is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import paths
from harness.errors import MissingPrivilege, Unsupported
from harness.host.locks import half_built
from harness.host.process import run as run_program
from harness.host.run import Run

SETTINGS = Path("/sys/kernel/mm/ksm")
NOTE = "merging.json"
"""In the directory of a run that changed the settings: what they were."""
SOURCE = paths.KSM_PROGRAM
_ADVISOR = "advisor_mode"
_FAST = {"pages_to_scan": "4001", "sleep_millisecs": "20"}
"""About 200,000 pages a second at most: half a core, so that what runs is not starved."""
_SLOW = {"pages_to_scan": "101", "sleep_millisecs": "20"}
"""About what the kernel does by default: keeps merged what is, at little cost."""
_ON = "1"
_UNTOUCHED = {"pages_to_scan": "100", "sleep_millisecs": "20", "run": "0"}
"""The kernel's own: what is put back where nobody knows what was."""


def program(cache: Path) -> Path:
    """The program that becomes another whose memory may be merged; built once."""
    target = cache / "programs" / hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    if not target.exists():
        with half_built(target) as directory:
            run_program("musl-gcc", "-static", "-Os", "-s", "-o", directory / SOURCE.stem, SOURCE)
    return target / SOURCE.stem


@dataclass(frozen=True)
class Merging:
    """The kernel's scanner at work for us; `settings` is where the kernel keeps its own."""

    settings: Path

    def count(self, name: str) -> int:
        """One of the kernel's counters: full_scans, pages_shared, pages_sharing, ..."""
        return int((self.settings / name).read_text())

    def scan_fast(self) -> None:
        """There are new pages to merge: scan fast."""
        _put(self.settings, _FAST)

    def scan_slowly(self) -> None:
        """What could be merged is: scan slowly from now on."""
        _put(self.settings, _SLOW)


@contextlib.contextmanager
def merging(run: Run, settings: Path = SETTINGS) -> Iterator[Merging]:
    """Scan fast while the block runs, then put back what was.

    Raises Unsupported where the kernel cannot merge, or where another run is at it.
    """
    if not (settings / "run").exists():
        raise Unsupported(
            "this kernel has no samepage merging", hint="a kernel with CONFIG_KSM=y has it"
        )
    if not os.access(settings / "run", os.W_OK):
        raise MissingPrivilege(f"{settings} cannot be written", hint="run it again as root")
    with (settings / "run").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Unsupported(
                "another run has samepage merging set up for itself", hint="wait until it has ended"
            ) from error
        if _marked(settings):  # a dead run's, whose directory is gone
            _put(settings, _UNTOUCHED)
        note = run.directory / NOTE
        note.write_text(json.dumps({"settings": str(settings), "found": _found(settings)}))
        try:
            _put(settings, {_ADVISOR: "none"} | _FAST | {"run": _ON})
            yield Merging(settings)
        finally:
            restore(note)


def abandoned(settings: Path = SETTINGS) -> bool:
    """Whether a run that is dead has left the scanner set up, and we may put it back."""
    if not _marked(settings) or not os.access(settings / "run", os.W_OK):
        return False
    with (settings / "run").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def reset(settings: Path = SETTINGS) -> None:
    """Put back the kernel's own settings, if a dead run's are still there."""
    if abandoned(settings):
        _put(settings, _UNTOUCHED)


def _marked(settings: Path) -> bool:
    with contextlib.suppress(OSError):
        scanned = (settings / "pages_to_scan").read_text().strip()
        return scanned in (_FAST["pages_to_scan"], _SLOW["pages_to_scan"])
    return False


def _found(settings: Path) -> Mapping[str, str]:
    found = {name: (settings / name).read_text().strip() for name in (*_FAST, "run")}
    if (settings / _ADVISOR).exists():
        # The kernel lists every mode and has the chosen one in brackets.
        listed = (settings / _ADVISOR).read_text()
        found[_ADVISOR] = listed.partition("[")[2].partition("]")[0] or listed.strip()
    return found


def _put(settings: Path, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        if (settings / name).exists():  # the advisor came later than the rest
            (settings / name).write_text(value)


def restore(note: Path) -> None:
    """Put back the settings that a note tells of, and remove it; safe to call twice."""
    with contextlib.suppress(FileNotFoundError):
        try:
            told = json.loads(note.read_text(errors="replace"))
        except ValueError:  # the host crashed before it was on disk, and with it the settings
            note.unlink()
            return
        settings, found = Path(told["settings"]), dict(told["found"])
        # A chosen advisor rules pages_to_scan itself: it goes last.
        advisor = found.pop(_ADVISOR, None)
        _put(settings, found | ({_ADVISOR: advisor} if advisor else {}))
        note.unlink()
