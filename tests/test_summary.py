"""The table in the terminal: every kind of series, not only cold starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from harness.measure import record
from harness.measure.endpoint_facts import EndpointFacts
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


def test_the_conditions_of_a_figure_stand_beside_it(tmp_path: Path) -> None:
    forked = {"substrate": "qemu", "sharing": "forked", "tier": "durable-pool"}
    change = [100e6 + number for number in range(11)]
    series = [
        Series("first-exec", "s", "lower", forked, "closed", (), [0.01] * 9),
        Series("host-change", "bytes", "lower", forked, "closed", (), change),
        Series("distinct", "1", "lower", forked, "closed", (), [1]),
    ]
    *_, executed, read, counted = shown(tmp_path, series)
    assert executed.endswith("n=9  emulated, possible under TCG only, rehearsed")
    assert read.endswith("n=11  emulated, possible under TCG only, repeated readings")
    assert "–" not in read and counted.endswith("n=1")


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


def test_what_a_service_does_not_offer_has_not_failed(tmp_path: Path) -> None:
    facts = {"system": "there"}
    lacking = [Failure(0, "`command -v node` finds nothing in the sandbox", "not-offered")]
    series = [
        Series("first-program", "s", "lower", facts, "closed", (), (), lacking),
        Series("create-headers", "s", "lower", facts, "closed", (), [0.05, 0.06]),
    ]
    endpoint = EndpointFacts("there", "there", "https://there.example.org")
    _, _, program, created = shown(tmp_path, series, endpoint=endpoint)
    assert "not offered" in program and "failed" not in program
    assert "accelerator" not in created, "a service does not tell"
