"""Digests of files that were read before, so that of thousands only those that changed are read.

A file counts as unchanged while its size, times and inode are what they were, as git has it; one
that was written while we looked is read again. Kept in the cache folder: a site must not depend on
when its records were copied.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

from harness.host.run import cache_folder
from harness.measure.record import digest

_RACY_NS = 2_000_000_000
"""File systems tell times in steps; within one, a second change would go unseen."""


class Seen:
    """What is known of the files of one folder."""

    def __init__(self, results: Path) -> None:
        name = hashlib.sha256(os.fsencode(results.resolve())).hexdigest()[:24]
        self._file = cache_folder() / "site" / f"seen-{name}.json"
        try:
            found = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            found = {}
        self._before: dict[str, list[object]] = found if isinstance(found, dict) else {}
        self._after: dict[str, list[object]] = {}

    def digest(self, path: Path) -> str:
        """SHA-256 of a file; empty when it cannot be read."""
        name = str(path)
        try:
            told = path.stat()
            state = [told.st_size, told.st_mtime_ns, told.st_ctime_ns, told.st_ino]
            known = self._before.get(name)
            found = str(known[4]) if known and known[:4] == state else digest(path)
        except (OSError, IndexError):
            return ""
        if max(told.st_mtime_ns, told.st_ctime_ns) < time.time_ns() - _RACY_NS:
            self._after[name] = [*state, found]
        return found

    def save(self) -> None:
        """Keep it for the next build. A cache that cannot be written is done without."""
        if self._after == self._before:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._file.parent, prefix=".seen-")
            with os.fdopen(handle, "w") as file:
                json.dump(self._after, file)
            Path(temporary).replace(self._file)
        except OSError:
            return
