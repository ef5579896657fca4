"""The table in the terminal: every kind of series, not only cold starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from harness.measure import record
from harness.measure.record import Failure, RunRecord, Series, Validity
from harness.rig import summary
from tests.site import factory


def shown(tmp_path: Path, series: list[Series], **changes: object) -> list[str]:
    made: RunRecord = dataclasses.replace(
        factory.cold_start("full"), series=series, **changes  # type: ignore[arg-type]
    )  # fmt: skip
    return list(summary.lines([record.write(made, tmp_path / "results")]))


def test_what_series_share_heads_them_and_what_differs_names_them(tmp_path: Path) -> None:
    facts: list[dict[str, Any]] = [{"substrate": "qemu", "n": n} for n in (8, 50)]
    series = [
        Series("host-change", "bytes", "lower", one, "closed", (), [one["n"] * 4e6])
        for one in facts
    ]
    _, head, first, second = shown(tmp_path, series)
    assert "substrate qemu" in head and "n 8" not in head
    assert first.split()[:5] == ["host-change", "n", "8", "31", "MiB"]
    assert second.split()[:3] == ["host-change", "n", "50"]


def test_failures_and_disturbances_are_seen(tmp_path: Path) -> None:
    dead = Series("reply", "s", "lower", {}, "closed", (), [], [Failure(0, "GuestDied: gone")])
    lines = shown(tmp_path, [dead], validity=Validity("suspect", ("it swapped",)))
    assert "no sample  1 failed" in lines[2]
    assert lines[3] == "  suspect: it swapped"


def test_a_long_record_is_folded(tmp_path: Path) -> None:
    many = [
        Series("rtt", "s", "lower", {"n": n}, "closed", (), [1e-6] * 10)
        for n in range(summary.FOLDED + 3)
    ]
    lines = shown(tmp_path, many)
    assert len(lines) == 2 + summary.FOLDED + 1
    assert lines[-1] == "  and 3 more series in the record"
