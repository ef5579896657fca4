"""How a run appears in lists: its title, the series that represents it, the claims it answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from harness.claims import answering
from harness.claims.claims import Claim
from harness.measure.conditions import SYSTEM
from harness.site.data import cold_start
from harness.site.data.corpus import RecordEntry
from harness.site.data.record_summary import RecordSummary, SeriesSummary


def headline(one: RecordSummary) -> SeriesSummary | None:
    """The series that represents a run in a list."""
    for series in one.series:
        if series.metric == cold_start.HEADLINE:
            return series
    # `noop` represents a run only if there is nothing else.
    return min(one.series, key=lambda series: series.dimensions.get("substrate") == cold_start.NOOP,
               default=None)  # fmt: skip


def title(one: RecordSummary) -> str:
    """The rig, the service under test if it was one, and the dimensions that all series share."""
    of = [one.rig.id, *([one.endpoint.name] if one.endpoint else [])]
    if not one.series:
        return ", ".join(of)
    shared = [
        f"{value}" if isinstance(value, str) else f"{name} {value}"
        for name, value in one.series[0].dimensions.items()
        if name not in ("accelerator", SYSTEM)
        and value is not None
        and all(series.dimensions.get(name) == value for series in one.series)
    ]
    return ", ".join([*of, *shared])


def answerable(one: RecordSummary, claims: Sequence[Claim]) -> Sequence[Claim]:
    """Claims that some series of this run can answer."""
    return [
        claim
        for claim in claims
        if any(
            answer.rig == one.rig.id
            and any(
                series.metric == answer.metric and answering.answers(series.dimensions, answer)
                for series in one.series
            )
            for answer in claim.answers
        )
    ]


def rows_of(
    entries: Sequence[RecordEntry], superseded: Collection[str]
) -> Sequence[Mapping[str, object]]:
    """What a list of runs shows for each run; `superseded` has the ids of those that are."""
    return [
        {
            "entry": entry,
            "title": title(entry.summary),
            "series": headline(entry.summary),
            "superseded": entry.summary.run_id in superseded,
        }
        for entry in entries
    ]
