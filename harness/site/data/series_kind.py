"""What a series measures: the same object for every series of one kind, in whatever record."""

from __future__ import annotations

import json
from dataclasses import dataclass

from harness.measure.record import Facts, Scalar

KindKey = tuple[str, tuple[tuple[str, Scalar], ...], str]


@dataclass(frozen=True, slots=True, eq=False)
class SeriesKind:
    """What a series measures. Interned: there is one object per kind, compared by identity.

    `endpoint` is the identity of the service that was measured, empty where the sandboxes were the
    machine's own: series of different services are of different kinds. `key` is its metric, its
    dimensions sorted by name, and that.
    """

    metric: str
    unit: str
    better: str
    dimensions: Facts
    endpoint: str
    key: KindKey


_KINDS: dict[str, SeriesKind] = {}


def series_kind(
    metric: str, unit: str, better: str, dimensions: Facts, endpoint: str = ""
) -> SeriesKind:
    """The shared object for series of this kind."""
    name = compact([metric, unit, better, dict(dimensions), endpoint])
    found = _KINDS.get(name)
    if found is None:
        key = (metric, tuple(sorted(dimensions.items())), endpoint)
        found = _KINDS[name] = SeriesKind(metric, unit, better, dict(dimensions), endpoint, key)
    return found


def compact(data: object) -> str:
    """JSON without white space."""
    return _ENCODE(data)


_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
