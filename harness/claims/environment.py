"""What a record was measured with, which record supersedes it, and by what change.

A record stays what it is. A series is superseded only by a newer run of the same series: the same
rig, metric and dimensions on the same machine with the same accelerator, measured at least as well
(a suspect run supersedes no valid one, a shorter profile no full one). The kernel, the image, the
patches and the rig's file do not belong to a series' identity: when one of them changes, the newer
run supersedes the older one, and says what has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.measure.record import Image, Machine, Patch, Rig, Scalar, Validity

_VALIDITY = ("failed", "suspect", "valid")


class Measured(Protocol):
    """A series of a record, or its summary."""

    @property
    def metric(self) -> str: ...

    @property
    def dimensions(self) -> Mapping[str, Scalar]: ...


class Ran(Protocol):
    """A record, or its summary."""

    @property
    def run_id(self) -> str: ...

    @property
    def profile(self) -> str: ...

    @property
    def rig(self) -> Rig: ...

    @property
    def patches(self) -> Sequence[Patch]: ...

    @property
    def images(self) -> Sequence[Image]: ...

    @property
    def machine(self) -> Machine: ...

    @property
    def validity(self) -> Validity: ...

    @property
    def series(self) -> Sequence[Measured]: ...


Kind = tuple[str, str, str, tuple[tuple[str, Scalar], ...]]
"""The identity of a series but for its accelerator: machine, rig, metric, dimensions."""


@dataclass(frozen=True)
class Superseded:
    """The run that came next for a series, and what had changed; nothing: it was repeated."""

    by: str
    changes: tuple[str, ...]

    @property
    def text(self) -> str:
        """What it was superseded by, as pages show it."""
        return ", ".join(self.changes) if self.changes else "measured again, nothing else changed"


def worth(one: Ran) -> tuple[int, bool]:
    """How well a record was measured: valid, then suspect, then failed; the full profile first."""
    return _VALIDITY.index(one.validity.status), one.profile == "full"


def changes(older: Ran, newer: Ran) -> tuple[str, ...]:
    """What differs between the environments of two records, as short phrases."""
    found = []
    if older.rig.sha256 != newer.rig.sha256:
        found.append("the rig changed")
    if _applied(older) != _applied(newer):
        found.append("the patches changed")
    if older.machine.kernel != newer.machine.kernel or older.machine.os != newer.machine.os:
        found.append("the kernel changed")
    images = {image.name: image.sha256 for image in newer.images}
    if any(images.get(image.name, image.sha256) != image.sha256 for image in older.images):
        found.append("the image changed")
    return tuple(found)


def _applied(one: Ran) -> Mapping[str, str]:
    return {patch.path: patch.sha256 for patch in one.patches if patch.applied}


def _kind(one: Ran, series: Measured) -> Kind:
    facts = tuple(sorted(series.dimensions.items()))
    return one.machine.id, one.rig.id, series.metric, facts


def _same_accelerator(one: Ran, other: Ran) -> bool:
    """Older records do not all state theirs."""
    both = one.machine.accelerator, other.machine.accelerator
    return None in both or both[0] == both[1]


def superseded(records: Sequence[Ran]) -> Mapping[tuple[str, int], Superseded]:
    """For each superseded series, by run id and index in its record, the run that came next."""
    by_kind: dict[Kind, list[tuple[Ran, int]]] = {}
    for one in sorted(records, key=lambda one: one.run_id):
        for number, series in enumerate(one.series):
            by_kind.setdefault(_kind(one, series), []).append((one, number))
    found: dict[tuple[str, int], Superseded] = {}
    for runs in by_kind.values():
        for at, (older, number) in enumerate(runs):
            for newer, _ in runs[at + 1 :]:
                if worth(newer) >= worth(older) and _same_accelerator(older, newer):
                    by = Superseded(newer.run_id, changes(older, newer))
                    found[older.run_id, number] = by
                    break
    return found


def wholly(records: Sequence[Ran]) -> Mapping[str, Superseded]:
    """The records all of whose series are superseded, each with the last run that did so."""
    by_series = superseded(records)
    found = {}
    for one in records:
        several = [by_series.get((one.run_id, number)) for number in range(len(one.series))]
        known = [each for each in several if each]
        if known and len(known) == len(several):
            found[one.run_id] = max(known, key=lambda each: each.by)
    return found
