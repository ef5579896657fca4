"""What a site's marker remembers: what each of its files was made of, so that the next build makes
only what has changed.

One line of JSON for each record and group, so that what did not change need not be written anew;
the first line has a digest of the rest. What does not fit it, or is not whole, counts as nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from harness.site.data import record_summary
from harness.site.data.record_summary import compact


@dataclass(frozen=True, slots=True)
class Run:
    """What is remembered of a record: its digest, its files and it in brief, and as it was written.

    Files are told by what they have after the place of the run. Written once: of thousands of
    records, one build changes a few.
    """

    sha256: str
    endings: Sequence[str]
    data: list[Any]
    line: str

    @classmethod
    def of(cls, shown: str, sha256: str, endings: Sequence[str], data: list[Any]) -> Run:
        return cls(sha256, endings, data, compact([shown, sha256, endings, data]))

    def files(self, stem: str) -> Sequence[str]:
        """Their addresses."""
        return [stem + one for one in self.endings]


@dataclass
class Marker:
    """What a site was made of: `code` of everything but records, then by name and content.

    `shared` has what records in brief have in common. `groups`: by name, their key, files, the ids
    of their pages and what these link to. `outgoing`: everything that pages of runs link to.
    """

    code: str = ""
    shared: record_summary.Shared = field(default_factory=dict)
    records: dict[str, Run] = field(default_factory=dict)
    groups: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    outgoing: list[str] = field(default_factory=list)

    def dump(self) -> bytes:
        used = {name for run in self.records.values() for name in record_summary.names(run.data)}
        shared = {name: self.shared[name] for name in sorted(used)}
        lines = [compact([self.outgoing, shared, len(self.records)])]
        lines += [one.line for _, one in sorted(self.records.items())]
        lines += [compact([name, one]) for name, one in sorted(self.groups.items())]
        body = ("\n".join(lines) + "\n").encode()
        return f"{self.code} {hashlib.sha256(body).hexdigest()}\n".encode() + body

    @classmethod
    def load(cls, file: IO[bytes], code: str) -> Marker | None:
        """The opposite; None unless it is whole and of that code."""
        head = file.readline().split()
        if len(head) != 2 or head[0].decode(errors="replace") != code:
            return None
        body = file.read()
        if hashlib.sha256(body).hexdigest().encode() != head[1]:
            return None
        first, *lines = body.decode().split("\n")[:-1]
        outgoing, shared, many = json.loads(first)
        found = cls(code, shared, outgoing=outgoing)
        # At once: thousands of small documents take several times as long.
        of_records = json.loads(f"[{','.join(lines[:many])}]")
        for (shown, sha256, endings, data), line in zip(of_records, lines, strict=False):
            found.records[shown] = Run(sha256, endings, data, line)
        found.groups = dict(map(json.loads, lines[many:]))
        return found

    def same(self, name: str, key: str) -> Mapping[str, Any] | None:
        """What is known of a group that was made of the same."""
        found = self.groups.get(name)
        return found if found and found["key"] == key else None
