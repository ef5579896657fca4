"""The density page: its figures, worked out again, and fleets that failed or were not measured."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("jinja2", reason="the site's packages are not installed: pip install .")

from harness.measure import record
from harness.measure.record import Failure, Image, Rig, RunRecord, Series, Validity
from harness.site.builder.build import build
from tests.site import factory
from tests.site.test_rederived import Figures, at

MIB = 1 << 20


def fleet(
    sharing: str,
    n: int,
    each_mib: float,
    *,
    died: int = 0,
    validity: Validity | None = None,
    substrate: str = "qemu",
) -> RunRecord:
    """A made-up record of one fleet, of the shape that the rig writes."""
    base = factory.cold_start("durable-pool", seed=f"{substrate}{sharing}{n}", n=3)
    draw = random.Random(f"{sharing}{n}")

    def series(metric: str, samples: Sequence[float], unit: str = "bytes", **more: str) -> Series:
        return Series(
            metric=metric,
            unit=unit,  # type: ignore[arg-type]
            better="lower",
            dimensions={"substrate": substrate, "n": n, "sharing": sharing, **more},
            loop="closed",
            samples=samples,
        )

    total = n * each_mib * MIB
    reply = series("reply", [1e-3 + draw.random() * 1e-4 for _ in range(n - died)], "s")
    failures = tuple(Failure(place, "GuestDied: made up") for place in range(died))
    return replace(
        base,
        rig=Rig("density", "rigs/test_density.py", "0" * 64),
        images=(Image("checkpoint", "0" * 64, {"memory_mib": 256}),),
        validity=validity or Validity("valid"),
        series=(
            series("bring-up", [0.03] * n, "s"),
            series("bring-up-at", [0.03 * place for place in range(1, n + 1)], "s"),
            series("host-change", [total] * 11, counted="to-be-had", work="idle"),
            series("host-change", [total + MIB] * 11, counted="free-and-caches", work="idle"),
            series("host-change", [total * 2] * 11, counted="to-be-had", work="touched-16-MiB"),
            series("vmm-pss", [4.0 * MIB] * n, work="idle"),
            series("private-dirty", [3.0 * MIB] * n, work="idle"),
            series("footprint", [1.5 * MIB] * n, part="heap", work="idle"),
            series("footprint", [0.5 * MIB] * n, part="guest memory", work="idle"),
            series("private", [1.25 * MIB] * n, part="program and libraries", work="idle"),
            series("kernel-memory", [0.75 * MIB] * n, part="page tables of KVM", work="idle"),
            series("merging-cpu", [2.5], "s"),
            series("idle-cpu", [0.07], "1"),
            series("idle-switches", [400.0], "1/s"),
            series("wakes", [2.0], "1/s", function="kcompactd_made_up"),
            series("wakes", [5.0], "1/s", function="tick_made_up"),
            replace(reply, failures=failures),
        ),
    )


def built(directory: Path, *records: RunRecord) -> Path:
    results = directory / "results"
    results.mkdir()
    for one in records:
        record.write(one, results)
    build(results, directory / "out")
    return directory / "out"


def test_each_fleet_has_its_row_and_what_each_sandbox_takes(tmp_path: Path) -> None:
    out = built(tmp_path, fleet("mapped", 8, 10), fleet("mapped", 50, 9), fleet("merged", 8, 4))
    text = (out / "density.html").read_text(encoding="utf-8")
    row = r'<tr><th scope="row">(\w+, \d+)<small>qemu, emulated</small></th>(.*?)</tr>'
    rows = re.findall(row, text, re.DOTALL)
    assert [name for name, _ in rows] == ["mapped, 8", "mapped, 50", "merged, 8"]
    for (_, row), (n, each) in zip(rows, ((8, 10), (50, 9), (8, 4)), strict=True):
        shown = [(float(value), address) for value, address, _, _ in Figures(row).found]
        assert shown[0][0] == n * each * MIB and shown[1][0] == each * MIB
        assert shown[0][1] == shown[1][1], "what each takes leads to the sum in the record"
        assert shown[2][0] == 4 * MIB and shown[3][0] == 3 * MIB
        assert shown[4][0] == 2 * each * MIB and shown[5][0] == pytest.approx(0.03 * n)
        assert shown[-1][0] == 0, "none failed to reply"
    assert "N times one guest's memory" in text.replace("&#39;", "'")
    assert "9 117 MiB" in text and "&lt;5 MB" in text, "others' figures stand beside ours"


def test_guests_under_kvm_and_emulated_ones_are_never_in_one_row_or_curve(tmp_path: Path) -> None:
    emulated = [fleet("mapped", 8, 20), fleet("mapped", 50, 19)]
    hardware = [
        replace(
            one,
            run_id=f"20261231T00000{at}Z-0000000{at}",
            machine=replace(one.machine, accelerator="kvm"),
        )
        for at, one in enumerate((fleet("mapped", 8, 4), fleet("mapped", 200, 3)))
    ]
    out = built(tmp_path, *emulated, *hardware)
    text = (out / "density.html").read_text(encoding="utf-8")
    row = r'<tr><th scope="row">([^<]+)<small>qemu[^<]*</small></th>(.*?)</tr>'
    totals = {
        name: float(Figures(row).found[0][0]) / MIB
        for name, row in re.findall(row, text, re.DOTALL)
    }
    assert totals == {
        "mapped, 8": 8 * 4,
        "mapped, 200": 200 * 3,
        "mapped, under TCG, 8": 8 * 20,
        "mapped, under TCG, 50": 50 * 19,
    }
    assert text.count("mapped: one checkpoint file</text>") == text.count(
        "mapped, under TCG</text>"
    )


def metric(out: Path, address: str) -> str:
    """The metric of the series that a figure leads to."""
    page, _, anchor = address.partition("#")
    return str(
        at(json.loads((out / page).with_suffix(".json").read_text(encoding="utf-8")), anchor)[
            "metric"
        ]
    )


def test_the_front_page_answers_the_headlines_of_density(tmp_path: Path) -> None:
    out = built(tmp_path, fleet("mapped", 8, 10), fleet("forked", 1000, 3))
    text = (out / "index.html").read_text(encoding="utf-8")
    rows = dict(re.findall(r'<tr id="(coppice-[^"]+)">(.*?)</tr>', text, re.DOTALL))
    _, (count, where, _, _), *_ = Figures(rows["coppice-thousand"]).found
    assert int(count) == 1000 and metric(out, where) == "reply"
    _, (value, address, _, _), *_ = Figures(rows["coppice-density"]).found
    assert float(value) == 1000 * 3 * MIB and metric(out, address) == "host-change"
    assert "QEMU, forked from one VMM" in rows["coppice-density"]


def test_a_fleet_with_a_dead_guest_is_a_failure_that_the_page_shows(tmp_path: Path) -> None:
    why = "reply: 1 of 8 failed, first sandbox 0 with GuestDied: made up"
    bad = fleet("mapped", 8, 10, died=1, validity=Validity("failed", (why,)))
    text = (built(tmp_path, bad) / "density.html").read_text(encoding="utf-8")
    assert why in text and "mark failed" in text
    assert re.search(
        r'<td class="n"[^>]*><data value="1" data-unit="1"><a [^>]*>1</a></data></td></tr>', text
    )


def test_what_a_vmm_holds_and_what_wakes_its_guest_on_the_method_page(tmp_path: Path) -> None:
    out = built(tmp_path, fleet("mapped", 8, 10), fleet("mapped", 50, 9), fleet("merged", 8, 4))
    text = (out / "method.html").read_text(encoding="utf-8")
    section = text[text.index('id="idle"') : text.index('id="statistics"')]
    assert "mapped, 50" in section and "mapped, 8" not in section, "the largest of each sharing"
    values = [float(value) for value, _, _, _ in Figures(section).found]
    assert values[:4] == [1.5 * MIB, 1.5 * MIB, 0.5 * MIB, 0.5 * MIB]
    assert section.index("tick_made_up") < section.index("kcompactd_made_up")


def test_without_a_record_it_says_how_to_get_one(tmp_path: Path) -> None:
    text = (built(tmp_path) / "density.html").read_text(encoding="utf-8")
    assert "not measured on this host" in text and "mise run bench:density" in text
    assert "bench:density" in (tmp_path / "out" / "method.html").read_text(encoding="utf-8")


def test_pieces_of_memory_are_on_the_method_page_with_what_they_are(tmp_path: Path) -> None:
    out = built(tmp_path, fleet("mapped", 8, 10), fleet("merged", 8, 4))
    text = (out / "method.html").read_text(encoding="utf-8")
    for id, part, expected in (
        ("memory-footprint", "heap", 1.5),
        ("memory-private", "program and libraries", 1.25),
        ("memory-kernel-memory", "page tables of KVM", 0.75),
    ):
        table = text[text.index(f'id="{id}"') :].partition("</table>")[0]
        (row,) = re.findall(rf'<tr><th scope="row">{part}<small>.+?</small></th>.*?</tr>', table)
        assert [float(value) for value, *_ in Figures(row).found] == [expected * MIB] * 2
    merging = (out / "density.html").read_text(encoding="utf-8").partition("Merging costs CPU")[2]
    assert "2.5" in [value for value, *_ in Figures(merging.partition("</p>")[0]).found]


def test_the_floor_has_rows_and_a_curve_of_its_own(tmp_path: Path) -> None:
    floor = fleet("mapped", 1000, 0.1, substrate="kvm-floor")
    out = built(tmp_path, fleet("mapped", 8, 10), floor)
    text = (out / "density.html").read_text(encoding="utf-8")
    assert re.search(r'<th scope="row">mapped, 1000<small>kvm-floor', text)
    assert ">kvm-floor, mapped" in text, "its curve's label"
    assert "no devices and no system calls" in text
    method = (out / "method.html").read_text(encoding="utf-8")
    assert "mapped, 8</th>" in method and "mapped, 1000</th>" not in method


def test_a_fleet_with_a_slim_kernel_has_a_row_beside_the_usual_one(tmp_path: Path) -> None:
    slim = fleet("mapped", 8, 4)
    series = tuple(
        replace(one, dimensions={**one.dimensions, "guest_kernel": "slim"}) for one in slim.series
    )
    slim = replace(slim, series=series, run_id="20261109T120000Z-0a0a0a0a")
    text = (built(tmp_path, fleet("mapped", 8, 10), slim) / "density.html").read_text("utf-8")
    for name, each in (("mapped, 8", 10), ("mapped, slim kernel, 8", 4)):
        (row,) = re.findall(rf'<th scope="row">{name}<small>.*?</tr>', text, re.DOTALL)
        assert float(Figures(row).found[1][0]) == each * MIB
