"""The index of a directory of records, `index.json`: what each record is, and whether later ones
have superseded it.

It is made from the records alone, by `coppice archive`. It has the digest of every record, so a
record that was changed later is found out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import strict_json
from harness.measure.record import RunRecord
from harness.measure.record_digests import INDEX_SCHEMA
from harness.measure.supersession import Measured, Superseded, measured, superseded
from harness.paths import ARCHIVE


@dataclass(frozen=True)
class Indexed:
    """A record without its samples. `path` is its file; `superseded` says by what, if it is."""

    path: Path
    sha256: str
    measured: Measured
    metrics: Mapping[str, int]
    superseded: Superseded | None

    @property
    def name(self) -> str:
        """The file's name, below its machine's directory."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def place(self) -> str:
        """Where it belongs, below the directory of records."""
        return f"{ARCHIVE}/{self.name}" if self.superseded else self.name


def index(read: Iterable[tuple[Path, str, RunRecord]]) -> Sequence[Indexed]:
    """These records, each with its path and digest, by machine and oldest first."""
    several = [
        (path, sha256, measured(record), dict(Counter(one.metric for one in record.series)))
        for path, sha256, record in read
    ]
    known = superseded([one for _, _, one, _ in several])
    made = [
        Indexed(path, sha256, one, metrics, known.get(one.run_id))
        for path, sha256, one, metrics in several
    ]
    return sorted(made, key=lambda one: one.name)


def encoded(several: Sequence[Indexed]) -> bytes:
    """The index's file, with a line for each record. Equal records give equal bytes."""
    head = json.dumps({"schema": INDEX_SCHEMA})[:-1]
    rows = ",\n".join(strict_json.dumps(_row(one)) for one in several)
    return f'{head}, "records": [\n{rows}\n]}}\n'.encode()


def _row(one: Indexed) -> Mapping[str, object]:
    of, day = one.measured, one.measured.run_id[:8]
    row: dict[str, object] = {
        "path": one.place,
        "sha256": one.sha256,
        "machine": of.machine.id,
        "rig": of.rig.id,
        "day": f"{day[:4]}-{day[4:6]}-{day[6:]}",
        "profile": of.profile,
        "commit": of.git.commit,
        "validity": of.status,
        "series": dict(sorted(one.metrics.items())),
        "state": "superseded" if one.superseded else "current",
    }
    if one.superseded:
        row["superseded_by"] = list(one.superseded.by)
        row["changed"] = list(one.superseded.changes)
    return row
