"""Kernel samepage merging (KSM) for the processes of one run, with the host's settings restored.

Only processes started through `program()` are merged, and those that had asked for it before. The
previous settings are saved in the run's directory, so that they are restored after a crash too
(harness/host/leftovers.py). The scanner belongs to the whole host, and runtime directories are
several: a run locks the scanner, and sets page counts that nothing else uses, which identify its
settings when its directory is gone.
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

from harness import paths, strict_json
from harness.errors import MissingPrivilege, Unsupported
from harness.host.cache import entry
from harness.host.process import run as run_program
from harness.host.run import Run

SETTINGS = Path("/sys/kernel/mm/ksm")
NOTE = "merging.json"
"""The file in the run's directory that holds the previous settings."""
SOURCE = paths.KSM_PROGRAM
_ADVISOR = "advisor_mode"
_FAST = {"pages_to_scan": "4001", "sleep_millisecs": "20"}
"""At most about 200,000 pages a second: half a core, so that sandboxes are not starved."""
_SLOW = {"pages_to_scan": "101", "sleep_millisecs": "20"}
"""About the kernel's default: keeps pages merged at little cost."""
_ON = "1"
_UNTOUCHED = {"pages_to_scan": "100", "sleep_millisecs": "20", "run": "0"}
"""The kernel's defaults, restored where the previous settings are lost."""


def program(cache: Path) -> Path:
    """A launcher that execs another program with mergeable memory; built once, then cached.

    Raises MissingTool, CoppiceError (it does not compile) and DiskFull.
    """
    target = cache / "programs" / hashlib.sha256(SOURCE.read_bytes()).hexdigest()

    def compile(directory: Path) -> None:
        run_program("musl-gcc", "-static", "-Os", "-s", "-o", directory / SOURCE.stem, SOURCE)

    return entry(target, compile) / SOURCE.stem


@dataclass(frozen=True)
class Merging:
    """The kernel's scanner while a run uses it; `settings` is its directory in /sys."""

    settings: Path

    def count(self, name: str) -> int:
        """A counter of the kernel: full_scans, pages_shared, pages_sharing, ..."""
        return int((self.settings / name).read_text(encoding="utf-8"))

    def scan_fast(self) -> None:
        """For new pages that should be merged soon."""
        _put(self.settings, _FAST)

    def scan_slowly(self) -> None:
        """For when everything mergeable has been merged."""
        _put(self.settings, _SLOW)


@contextlib.contextmanager
def merging(run: Run, settings: Path = SETTINGS) -> Iterator[Merging]:
    """Run the scanner, fast at first, while the block runs; then restore the settings.

    Raises Unsupported where the kernel has no KSM or another run uses it, MissingPrivilege where
    its settings cannot be written.
    """
    if not (settings / "run").exists():
        raise Unsupported(
            "this kernel has no samepage merging", hint="boot a kernel built with CONFIG_KSM=y"
        )
    if not os.access(settings / "run", os.W_OK):
        raise MissingPrivilege(f"{settings} cannot be written", hint="run it again as root")
    with (settings / "run").open(encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Unsupported(
                "another run is using samepage merging", hint="run it again when that run has ended"
            ) from error
        if _marked(settings):  # by a dead run whose directory is gone
            _put(settings, _UNTOUCHED)
        note = run.directory / NOTE
        note.write_text(
            json.dumps({"settings": str(settings), "found": _current(settings)}), encoding="utf-8"
        )
        try:
            _put(settings, {_ADVISOR: "none"} | _FAST | {"run": _ON})
            yield Merging(settings)
        finally:
            restore(note)


def abandoned(settings: Path = SETTINGS) -> bool:
    """Whether a dead run has left its settings, and this process may reset them."""
    if not _marked(settings) or not os.access(settings / "run", os.W_OK):
        return False
    with (settings / "run").open(encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def reset(settings: Path = SETTINGS) -> None:
    """Reset the scanner to the kernel's defaults, if a dead run has left its settings."""
    if abandoned(settings):
        _put(settings, _UNTOUCHED)


def _marked(settings: Path) -> bool:
    with contextlib.suppress(OSError):
        scanned = (settings / "pages_to_scan").read_text(encoding="utf-8").strip()
        return scanned in (_FAST["pages_to_scan"], _SLOW["pages_to_scan"])
    return False


def _current(settings: Path) -> Mapping[str, str]:
    found = {
        name: (settings / name).read_text(encoding="utf-8").strip() for name in (*_FAST, "run")
    }
    if (settings / _ADVISOR).exists():
        # The kernel lists every mode, with the active one in brackets.
        listed = (settings / _ADVISOR).read_text(encoding="utf-8")
        found[_ADVISOR] = listed.partition("[")[2].partition("]")[0] or listed.strip()
    return found


def _put(settings: Path, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        if (settings / name).exists():  # older kernels have no advisor
            (settings / name).write_text(value, encoding="utf-8")


def restore(note: Path) -> None:
    """Restore the settings saved in `note`, and remove it; safe to call twice."""
    with contextlib.suppress(FileNotFoundError):
        try:
            saved = strict_json.loads(note.read_text(errors="replace", encoding="utf-8"))
        except ValueError:  # the host crashed while it was written, which also reset the settings
            note.unlink()
            return
        settings, found = Path(saved["settings"]), dict(saved["found"])
        # An active advisor sets pages_to_scan itself, so it is restored last.
        advisor = found.pop(_ADVISOR, None)
        _put(settings, found | ({_ADVISOR: advisor} if advisor else {}))
        note.unlink()
