"""A cache of file digests, so that of thousands of files only changed ones are read.

As in git, a file counts as unchanged while its size, times and inode are the same; a file that was
written very recently is read again. The cache is not part of the site, which must not depend on
when its records were copied.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import strict_json
from harness.measure.record import digest
from harness.paths import cache_directory

_RACY_NS = 2_000_000_000
"""File systems have coarse timestamps: a second change within one step would go unnoticed."""


class CachedJson:
    """A JSON file in the cache directory, as a context manager. `found` is its content, and is
    written back if it has changed. A cache that cannot be read or written is ignored."""

    def __init__(self, name: str) -> None:
        self._file = cache_directory() / "site" / name
        self._before: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            found = strict_json.loads(self._file.read_bytes())
            self._before = found if isinstance(found, dict) else {}
        self.found = self._before

    def __enter__(self) -> CachedJson:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind or self.found == self._before:
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._file.parent, prefix=".new-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(json.dumps(self.found))
            Path(temporary).replace(self._file)


class DigestCache:
    """Known digests of the files of one directory."""

    def __init__(self, results: Path) -> None:
        name = hashlib.sha256(os.fsencode(results.resolve())).hexdigest()[:24]
        self._kept = CachedJson(f"seen-{name}.json")
        self._before: dict[str, list[object]] = self._kept.found
        self._after: dict[str, list[object]] = {}
        self._recent = time.time_ns() - _RACY_NS

    def digest(self, path: Path) -> str:
        """SHA-256 of a file; empty when it cannot be read."""
        name = str(path)
        try:
            stat = os.stat(name)  # noqa: PTH116  (for thousands of files)
            state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
            known = self._before.get(name)
            found = str(known[4]) if known and known[:4] == state else digest(path)
        except (OSError, IndexError, TypeError):
            return ""
        if stat.st_mtime_ns < self._recent > stat.st_ctime_ns:
            self._after[name] = [*state, found]
        return found

    def save(self) -> None:
        """Save the digests for the next build."""
        with self._kept as kept:
            kept.found = self._after
