"""Where a build puts its files: beside the site that is there, of which it keeps what is the same.

A site's marker says that the folder is ours, and what its files were made of. A file that need not
be made again is linked into the new folder, which then takes the old one's place by renaming.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import UsageError

MARKER = ".coppice-site"
"""Says that a folder is a site of ours and may be replaced."""


@dataclass(frozen=True)
class Run:
    """What is remembered of a record: its digest, its files and it in brief, and as it was written.

    Written once: of thousands of records, one build changes a few.
    """

    sha256: str
    files: Sequence[str]
    data: list[Any]
    line: str

    @classmethod
    def of(cls, shown: str, sha256: str, files: Sequence[str], data: list[Any]) -> Run:
        return cls(sha256, files, data, _line([shown, sha256, files, data]))


@dataclass
class Marker:
    """What a site was made of: `code` of everything but records, then by name and content.

    `groups`: by name, their key, files, the ids of their pages and what these link to.
    `outgoing`: everything that pages of runs link to. One line of JSON each, so that what did not
    change need not be written anew.
    """

    code: str = ""
    records: dict[str, Run] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)
    outgoing: list[str] = field(default_factory=list)

    def dump(self) -> bytes:
        head = {"code": self.code, "records": len(self.records), "outgoing": self.outgoing}
        lines = [_line(head), *(one.line for _, one in sorted(self.records.items()))]
        lines += [_line([name, one]) for name, one in sorted(self.groups.items())]
        return ("\n".join(lines) + "\n").encode()


def _line(data: object) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def remembered(out: Path, code: str) -> Marker:
    """What the site in `out` was made of; empty unless the same code made it."""
    found = Marker(code)
    try:
        with (out / MARKER).open(encoding="utf-8", newline="\n") as file:
            head = json.loads(file.readline())
            if head["code"] != code:
                return Marker(code)
            found.outgoing = head["outgoing"]
            for _ in range(head["records"]):
                line = file.readline().rstrip("\n")
                shown, sha256, files, data = json.loads(line)
                found.records[shown] = Run(sha256, files, data, line)
            found.groups = dict(map(json.loads, file))
    except (OSError, ValueError, TypeError, LookupError):
        return Marker(code)
    return found


class Folder:
    """A site in the making. As a context manager: what was made goes away unless it is placed."""

    def __init__(self, out: Path) -> None:
        self.out = Path.cwd() / out
        if self.out.exists() and (
            not self.out.is_dir() or (any(self.out.iterdir()) and not (self.out / MARKER).exists())
        ):
            raise UsageError(
                f"{self.out} is there already and is not a site that this command built",
                hint="name another folder with --out, or remove it yourself",
            )
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.fresh = Path(tempfile.mkdtemp(dir=self.out.parent, prefix=f".{self.out.name}-"))
        self.fresh.chmod(0o755)
        self._folders: set[str] = set()

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.fresh, ignore_errors=True)

    def _within(self, path: str) -> str:
        folder = os.path.dirname(path)  # noqa: PTH120  (for thousands of files)
        if folder not in self._folders:
            (self.fresh / folder).mkdir(parents=True, exist_ok=True)
            self._folders.add(folder)
        return f"{self.fresh}/{path}"

    def write(self, path: str, content: bytes) -> None:
        Path(self._within(path)).write_bytes(content)

    def keep(self, paths: Iterable[str]) -> bool:
        """Take files over from the site that is there; False when one is gone."""
        try:
            for path in paths:
                os.link(f"{self.out}/{path}", self._within(path))
        except OSError:
            return False
        return True

    def place(self, marker: Marker) -> None:
        """Put what was made in the place of what was there."""
        self.write(MARKER, marker.dump())
        if not self.out.exists():
            self.fresh.rename(self.out)
            return
        old = Path(tempfile.mkdtemp(dir=self.out.parent, prefix=f".{self.out.name}-old-"))
        self.out.rename(old / self.out.name)
        try:
            self.fresh.rename(self.out)
        except OSError:
            (old / self.out.name).rename(self.out)
            raise
        finally:
            shutil.rmtree(old, ignore_errors=True)


def same(marker: Marker, name: str, key: str) -> Mapping[str, Any] | None:
    """What is known of a group that was made of the same."""
    found = marker.groups.get(name)
    return found if found and found["key"] == key else None
