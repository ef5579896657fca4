"""What must be known of two sets of records before their figures are compared.

Whether each is valid, and in what the runs differ besides what was varied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.measure.record import RunRecord, Series, function_only

SHOWN = 3
"""The most values that are shown of each side."""


@dataclass(frozen=True)
class Doubt:
    """A record whose figures decide nothing: suspect, failed or function-only, and why."""

    run_id: str
    rig: str
    status: str
    reasons: Sequence[str]

    def __str__(self) -> str:
        return f"{self.status}: {'; '.join(self.reasons) or 'no reason recorded'}"


def doubt(record: RunRecord, series: Series | None = None) -> Doubt | None:
    """Why the figures of a record, or of one of its series, decide nothing; None if they do."""
    why = function_only(series, record.machine) if series else record.machine.function_only
    if why:
        return Doubt(record.run_id, record.rig.id, "function only", (why,))
    if record.validity.status != "valid":
        return Doubt(record.run_id, record.rig.id, record.validity.status, record.validity.reasons)
    return None


def doubts(records: Iterable[RunRecord]) -> Sequence[Doubt]:
    """The doubts about these records, each record once."""
    unique = {record.run_id: record for record in records}
    return [found for record in unique.values() if (found := doubt(record))]


def doubts_of(several: Iterable[tuple[RunRecord, Series]]) -> Sequence[Doubt]:
    """The doubts about these series and their records, each record once."""
    found: dict[str, Doubt] = {}
    for record, series in several:
        if why := doubt(record, series):
            found.setdefault(record.run_id, why)
    return list(found.values())


@dataclass(frozen=True)
class Difference:
    """A fact in which the runs of two sides differ, with the values of each side."""

    fact: str
    a: Sequence[str]
    b: Sequence[str]

    def __str__(self) -> str:
        return f"{self.fact} {_several(self.a)} | {_several(self.b)}"


def _several(values: Sequence[str]) -> str:
    if len(values) > SHOWN:
        return f"{len(values)} different"
    return ", ".join(values) or "none"


def _commit(record: RunRecord) -> str:
    commit = (record.git.commit or "unknown")[:8]
    return f"{commit} with changes" if record.git.dirty else commit


def _images(record: RunRecord) -> str:
    return ", ".join(sorted(f"{one.name} {one.sha256[:8]}" for one in record.images))


def _patches(record: RunRecord) -> str:
    return ", ".join(
        sorted(f"{one.path} {one.sha256[:8]}" for one in record.patches if one.applied)
    )


_FACTS: Mapping[str, Callable[[RunRecord], str]] = {
    "service": lambda record: record.endpoint.identity if record.endpoint else "",
    "machine": lambda record: f"{record.machine.name} ({record.machine.id})",
    "processor": lambda record: f"{record.machine.cpu}, {record.machine.cores} cores",
    "system": lambda record: record.machine.os,
    "kernel": lambda record: record.machine.kernel,
    "virtualisation": lambda record: record.machine.virtualisation,
    "accelerator": lambda record: record.machine.accelerator or "none",
    "rig file": lambda record: f"{record.rig.path} {record.rig.sha256[:8]}",
    "image": _images,
    "patches": _patches,
    "commit": _commit,
    "profile": lambda record: record.profile,
    "clock": lambda record: record.clock.id,
}


def differences(a: Sequence[RunRecord], b: Sequence[RunRecord]) -> Sequence[Difference]:
    """The facts of which the two sides do not have the same values; a service under test first,
    then the machine, which is the client's where there is a service."""
    found = []
    for fact, of in _FACTS.items():
        values = _values(map(of, a)), _values(map(of, b))
        if values[0] != values[1]:
            found.append(Difference(fact, *values))
    names = sorted({name for record in (*a, *b) for name in record.tools})
    for name in names:
        tools = [_values(record.tools.get(name, "") for record in side) for side in (a, b)]
        # A program that only one side uses belongs to what was varied.
        if tools[0] != tools[1] and all(filter(None, side) for side in tools):
            found.append(Difference(name, *tools))
    return found


def _values(values: Iterable[str]) -> Sequence[str]:
    return sorted(filter(None, dict.fromkeys(values)))


def days(records: Iterable[RunRecord]) -> str:
    """The days of these runs: one, or the first and the last."""
    found = sorted({record.started[:10] for record in records})
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"
