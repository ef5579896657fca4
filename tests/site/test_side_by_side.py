"""Two machines side by side: what both measured, by whatever system each has."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

from harness.measure import record
from harness.measure.record import RunRecord
from harness.paths import PUBLISHED
from harness.site.builder.build import build
from harness.site.data.corpus import load
from harness.site.data.side_by_side import MOST, tables
from tests.site import factory

OTHER = factory.machine("other-host", accelerator="kvm")


def both(results: Path, *more: RunRecord) -> Path:
    """Two machines with `full`, of which one also has a pool and `noop`."""
    records = [
        factory.cold_start("full", n=12),
        factory.cold_start("durable-pool", n=12),
        factory.cold_start("full", n=12, substrate="noop"),
        factory.cold_start("full", n=12, substrate="bhyve", host=OTHER, day=2),
        *more,
    ]
    for one in records:
        record.write(one, results)
    return results


def test_what_both_measured_is_in_one_row_with_the_systems_of_each(tmp_path: Path) -> None:
    rows = tables(load(both(tmp_path / "results"), PUBLISHED))["cold-start"]
    assert [row.metric for row in rows] == list(factory.RUNGS)
    for row in rows:
        # The accelerator belongs to the machine, and no row is of the pool that one lacks.
        assert row.dimensions == {"concurrency": 1, "tier": "full"}
        systems = {machine: [one.system for one in found] for machine, found in row.found.items()}
        assert systems == {factory.HOST: ["noop", "qemu"], "other-host": ["bhyve"]}


def test_the_page_has_a_column_for_each_machine_and_the_csv_every_figure(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(both(tmp_path / "results"), out)
    text = (out / "side-by-side/cold-start.html").read_text(encoding="utf-8")
    for machine in (factory.HOST, "other-host"):
        assert f'href="../machines/{machine}.html"' in text
    assert text.count("<data ") == 3 * len(factory.RUNGS)
    rows = list(
        csv.DictReader(
            (out / "side-by-side/cold-start.csv").read_text(encoding="utf-8").splitlines()
        )
    )
    assert len(rows) == 3 * len(factory.RUNGS)
    assert {(row["machine"], row["system"], row["accelerator"]) for row in rows} == {
        (factory.HOST, "qemu", "tcg"), (factory.HOST, "noop", ""), ("other-host", "bhyve", "kvm"),
    }  # fmt: skip
    assert all(float(row["p50"]) > 0 and (out / row["record"]).is_file() for row in rows)


def test_a_function_only_machine_shows_that_it_works_and_no_time(tmp_path: Path) -> None:
    host = dataclasses.replace(
        factory.machine("slow-host"), function_only="it is emulated itself (test)"
    )
    out = tmp_path / "out"
    build(both(tmp_path / "results", factory.cold_start("full", n=12, host=host, day=3)), out)
    assert "function proved" in (out / "side-by-side/cold-start.html").read_text(encoding="utf-8")
    rows = list(
        csv.DictReader(
            (out / "side-by-side/cold-start.csv").read_text(encoding="utf-8").splitlines()
        )
    )
    slow = [row for row in rows if row["machine"] == "slow-host"]
    assert len(slow) == len(factory.RUNGS) and not any(row["p50"] for row in slow)


def test_one_machine_alone_has_no_table_and_many_have_only_so_many_columns(
    tmp_path: Path,
) -> None:
    record.write(factory.cold_start("full", n=12), tmp_path / "alone")
    assert tables(load(tmp_path / "alone", PUBLISHED)) == {}
    more = [
        factory.cold_start("full", n=6, host=factory.machine(f"host-{n}"), day=3 + n)
        for n in range(MOST + 1)
    ]
    out = tmp_path / "out"
    build(both(tmp_path / "results", *more), out)
    text = (out / "side-by-side/cold-start.html").read_text(encoding="utf-8")
    assert text.count('<th scope="col">') == 1 + MOST
    assert "also of 3 more machines" in text
