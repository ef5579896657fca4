"""The manifest of a built site: what each file was made from, so that the next build makes only
what has changed.

One line of JSON per record and group, so that unchanged lines are not encoded again; the first line
has a digest of the rest. A manifest that does not match its digest is ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from harness.site.data import record_summary
from harness.site.data.series_kind import compact


@dataclass(frozen=True, slots=True)
class RememberedRun:
    """What is remembered of a run: its record's digest, files and summary, and the encoded line.

    Files are stored as suffixes of the run's path. The line is kept because most builds change only
    a few of thousands of records. `later`: what its page says of the runs that superseded it.
    """

    sha256: str
    endings: Sequence[str]
    data: list[Any]
    line: str
    later: str = ""

    @classmethod
    def of(
        cls, shown: str, sha256: str, endings: Sequence[str], data: list[Any], later: str = ""
    ) -> RememberedRun:
        line = compact([shown, sha256, endings, data, later])
        return cls(sha256, endings, data, line, later)

    def files(self, stem: str) -> Sequence[str]:
        """The files' addresses."""
        return [stem + one for one in self.endings]


@dataclass
class Manifest:
    """What a site was made from. `code` is the digest of everything except records.

    `shared`: data that several record summaries share. `groups`: by name, their key, files, page
    ids and links. `outgoing`: everything that pages of runs link to.
    """

    code: str = ""
    shared: record_summary.Shared = field(default_factory=dict)
    records: dict[str, RememberedRun] = field(default_factory=dict)
    groups: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    outgoing: list[str] = field(default_factory=list)

    def dump(self) -> bytes:
        used: set[str] = set()
        for run in self.records.values():
            used.update(record_summary.shared_names(run.data))
        shared = {name: self.shared[name] for name in sorted(used)}
        lines = [compact([self.outgoing, shared, len(self.records)])]
        lines += [one.line for _, one in sorted(self.records.items())]
        lines += [compact([name, one]) for name, one in sorted(self.groups.items())]
        body = ("\n".join(lines) + "\n").encode()
        return f"{self.code} {hashlib.sha256(body).hexdigest()}\n".encode() + body

    @classmethod
    def load(cls, file: IO[bytes], code: str) -> Manifest | None:
        """The inverse of `dump`; None if it is damaged or was made by other code."""
        head = file.readline().split()
        if len(head) != 2 or head[0].decode(errors="replace") != code:
            return None
        body = file.read()
        if hashlib.sha256(body).hexdigest().encode() != head[1]:
            return None
        first, *lines = body.decode().split("\n")[:-1]
        outgoing, shared, many = json.loads(first)
        found = cls(code, shared, outgoing=outgoing)
        # Parsed at once, which is several times as fast as parsing thousands of small documents.
        of_records = json.loads(f"[{','.join(lines[:many])}]")
        for (shown, sha256, endings, data, later), line in zip(of_records, lines, strict=False):
            found.records[shown] = RememberedRun(sha256, endings, data, line, later)
        found.groups = dict(map(json.loads, lines[many:]))
        return found

    def same(self, name: str, key: str) -> Mapping[str, Any] | None:
        """What is known of a group that was made from the same inputs."""
        found = self.groups.get(name)
        return found if found and found["key"] == key else None
