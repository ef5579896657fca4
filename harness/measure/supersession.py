"""Which records later ones have superseded, and what had changed by then.

A record is superseded when each series of which it has samples was measured again on that machine,
by a record that is as valid and as full, and not emulated where that series was not. A record of an
endpoint is superseded only by one of the same endpoint, from the same machine. What else changed
since, such as the kernel or the rig, does not matter to that: it is named.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.measure.endpoint_facts import EndpointFacts
from harness.measure.record import (
    Git,
    Image,
    Machine,
    Patch,
    Rig,
    RunRecord,
    Series,
    conditions_of,
    function_only,
)

_STATES = ("failed", "suspect", "valid")
"""Validities, the best last."""


@dataclass(frozen=True)
class Measured:
    """What is compared of a record. `kinds` has the series with samples: metric, unit, dimensions.

    `function_only` has the kinds of which only the function counts, `emulated` those whose guests
    were emulated.
    """

    run_id: str
    rig: Rig
    profile: str
    git: Git
    machine: Machine
    images: Sequence[Image]
    patches: Sequence[Patch]
    status: str
    function_only: frozenset[Hashable]
    kinds: frozenset[Hashable]
    emulated: frozenset[Hashable]
    endpoint: EndpointFacts | None = None


@dataclass(frozen=True)
class Superseded:
    """The runs that first superseded a record, oldest first, and what had changed by then.

    Without a change they are only newer.
    """

    by: Sequence[str]
    changes: Sequence[str]


def measured(record: RunRecord) -> Measured:
    """What is compared of a whole record."""
    sampled = [
        (
            _kind(series),
            conditions_of(series, record.machine),
            function_only(series, record.machine),
        )
        for series in record.series
        if series.samples
    ]
    whole = bool(record.machine.function_only) or record.machine.class_ == "emulated"
    return Measured(
        record.run_id,
        record.rig,
        record.profile,
        record.git,
        record.machine,
        record.images,
        record.patches,
        record.validity.status,
        frozenset(kind for kind, _, proves in sampled if whole or proves),
        frozenset(kind for kind, *_ in sampled),
        frozenset(kind for kind, conditions, _ in sampled if conditions.emulated),
        record.endpoint,
    )


def _kind(series: Series) -> Hashable:
    return series.metric, series.unit, tuple(sorted(series.dimensions.items()))


def superseded(records: Sequence[Measured]) -> Mapping[str, Superseded]:
    """The superseded ones of these records, by run."""
    found = {}
    later: dict[Hashable, list[Measured]] = {}
    # Newest first: everything in `later` is newer than the record that is looked at.
    for one in sorted(records, key=lambda one: one.run_id, reverse=True):
        place = (one.machine.id, one.rig.id, one.endpoint.identity if one.endpoint else None)
        # A record without any sample is superseded by the next one that has some.
        kinds: list[Hashable] = list(one.kinds) or [None]
        firsts = [_first(one, kind, later.get((place, kind), ())) for kind in kinds]
        if all(firsts):
            by = {newer.run_id: newer for newer in firsts if newer}
            ordered = [by[id] for id in sorted(by)]
            changed = dict.fromkeys(name for newer in ordered for name in changes(one, newer))
            found[one.run_id] = Superseded([newer.run_id for newer in ordered], list(changed))
        for kind in {None, *one.kinds}:
            later.setdefault((place, kind), []).append(one)
    return found


def _first(one: Measured, kind: Hashable, later: Sequence[Measured]) -> Measured | None:
    """The first of these, which are sorted newest first, that supersedes."""
    return next((newer for newer in reversed(later) if _as_good(newer, one, kind)), None)


def _as_good(newer: Measured, older: Measured, kind: Hashable) -> bool:
    return (
        bool(newer.kinds)
        and _STATES.index(newer.status) >= _STATES.index(older.status)
        and newer.profile in ("full", older.profile)
        and (kind in older.function_only or kind not in newer.function_only)
        and (kind in older.emulated or kind not in newer.emulated)
    )


def _images(one: Measured) -> Mapping[str, str]:
    return {image.name: image.sha256 for image in one.images}


_COMPARED: Mapping[str, Callable[[Measured], object]] = {
    "the rig's file": lambda one: one.rig.sha256,
    "the commit": lambda one: (one.git.commit, one.git.dirty),
    "the kernel": lambda one: one.machine.kernel,
    "the operating system": lambda one: one.machine.os,
    "the accelerator": lambda one: one.machine.accelerator,
    "the microcode": lambda one: one.machine.microcode,
    "the patches": lambda one: sorted((p.path, p.sha256) for p in one.patches if p.applied),
    "what is told of the service": lambda one: dict(one.endpoint.told) if one.endpoint else None,
    "what the service answers": lambda one: dict(one.endpoint.answered) if one.endpoint else None,
}


def changes(older: Measured, newer: Measured) -> Iterator[str]:
    """What differs between two records of a rig, apart from what they measured."""
    for name, fact in _COMPARED.items():
        if fact(older) != fact(newer):
            yield name
    before, after = _images(older), _images(newer)
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            yield f"the image {name}"
