"""What a journal says. It may be damaged: then it is read as far as it is sound."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from harness import strict_json
from harness.endpoints.answers import IDENTIFIER
from harness.endpoints.configuration import VARIABLE

LINE = 8192
"""Bytes of a line, at most."""
LONGEST_LIFE_S = 86400.0
"""No sandbox of a damaged journal lives longer after the journal's last note."""
_LATEST = 253402300799.0
_FORMS: Mapping[str, re.Pattern[str]] = {
    "address": re.compile(r"https?://[\x21-\x7e]{1,2000}"),
    "key_variable": VARIABLE,
    "key_mark": re.compile(r"[0-9a-f]{6}"),
}
_HALF = re.compile(rb'\{("[\x20-\x7e]*)?')
"""The begin of a line, which a run that was killed may leave."""


@dataclass(frozen=True)
class Entries:
    """What a journal says: the sandboxes that were not deleted, how many were made at all, how many
    creations had no valid answer, and when (UTC, seconds) the last sandbox ends by itself.
    `damaged` counts the lines that no run has written."""

    path: Path
    run_id: str
    address: str = ""
    key_variable: str = ""
    key_mark: str = ""
    alive: Sequence[str] = ()
    made: int = 0
    lost: int = 0
    until: float = 0.0
    damaged: int = 0

    @property
    def empty(self) -> bool:
        """Whether nothing can have been made."""
        return not (self.made or self.lost or self.damaged)


def read(path: Path, handle: int) -> Entries:
    """The journal that is open as `handle`; its last line may be half-written."""
    with os.fdopen(os.dup(handle), "rb") as file:
        file.seek(0)
        return _read(path, file)


def read_dead(path: Path) -> Entries | None:
    """A journal whose run has ended; None if it lives, or if there is no such regular file."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(path, flags)
    except FileNotFoundError:
        return None
    except OSError:
        if path.is_symlink() or not path.is_file():
            return None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return None
    with os.fdopen(handle, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        # Another may have removed it between the two.
        return _read(path, file) if os.fstat(handle).st_nlink else None


def _read(path: Path, file: BinaryIO) -> Entries:
    notes = _Notes(path.stem)
    for line in _lines(file):
        if not line.endswith(b"\n") and _HALF.fullmatch(line):
            break
        try:
            notes.add(strict_json.loads(line))
        except ValueError:
            notes.damaged += 1
    if notes.damaged:
        latest = os.fstat(file.fileno()).st_mtime + LONGEST_LIFE_S
        notes.until = max(notes.until, min(latest, _LATEST))
    return Entries(
        path, path.stem, **notes.about, alive=list(notes.alive), made=notes.made,
        lost=max(notes.asked - notes.refused - notes.made, 0), until=notes.until,
        damaged=notes.damaged,
    )  # fmt: skip


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines; one that is too long comes in pieces."""
    while line := file.readline(LINE):
        yield line


class _Notes:
    """The sum of a journal's lines."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self.about: dict[str, Any] = {}
        self.alive: dict[str, None] = {}
        self.asked = self.refused = self.made = self.damaged = 0
        self.until = 0.0

    def add(self, note: Any) -> None:
        """Add a line. Raises ValueError for one that no run has written."""
        if not isinstance(note, dict):
            raise ValueError("no object")
        kinds: Mapping[str, Callable[[Any], None]] = {
            "asked": self._ask, "refused": self._refuse, "made": self._make, "gone": self._end
        }  # fmt: skip
        if "run" in note:
            self._begin(note)
        elif len(note) == 1 and (name := next(iter(note))) in kinds:
            kinds[name](note[name])
        else:
            raise ValueError("no such note")

    def _begin(self, note: Mapping[str, Any]) -> None:
        # What is sound of it is kept, although another part is not.
        sound = {
            name: value
            for name, form in _FORMS.items()
            if isinstance(value := note.get(name), str) and form.fullmatch(value)
        }
        for name, value in sound.items():
            self.about.setdefault(name, value)
        if note["run"] != self._run_id or len(sound) < len(_FORMS):
            raise ValueError("not by this run")

    def _ask(self, until: Any) -> None:
        if isinstance(until, bool) or not isinstance(until, int | float):
            raise ValueError("no time")
        if not math.isfinite(until) or not 0 < until <= _LATEST:
            raise ValueError("no time")
        self.asked += 1
        self.until = max(self.until, float(until))

    def _refuse(self, count: Any) -> None:
        if count is not True and count != 1:
            raise ValueError("no count")
        self.refused += 1

    def _make(self, id: Any) -> None:
        self.alive[_identifier(id)] = None
        self.made += 1

    def _end(self, id: Any) -> None:
        with contextlib.suppress(KeyError):
            del self.alive[_identifier(id)]


def _identifier(id: Any) -> str:
    if not isinstance(id, str) or not IDENTIFIER.fullmatch(id):
        raise ValueError("no identifier")
    return id
