"""Multiples of the floor, and what a kernel by choice is worth: worked out again from records."""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("jinja2", reason="the site's packages are not installed: pip install .")

from harness.measure import record
from harness.measure.record import RunRecord, Series
from harness.site.builder.build import build
from tests.site import factory, kvm_factory

POOL, FROZEN = "durable-pool", "durable-prewarm-pool"


def page(directory: Path, records: Sequence[RunRecord], name: str = "cold-start.html") -> str:
    for one in records:
        record.write(one, directory / "results")
    build(directory / "results", directory / "out")
    return (directory / "out" / name).read_text(encoding="utf-8")


def section(text: str, id: str) -> str:
    return text[text.index(f'id="{id}"') :].partition("</section>")[0]


def rows(part: str) -> dict[str, list[list[float]]]:
    """The figures of a section's rows, by the row's header; several of one name in order."""
    found: dict[str, list[list[float]]] = {}
    for row in re.findall(r"<tr>(.*?)</tr>", part, re.S):
        head = re.search(r'<th scope="row">(.*?)</th>', row, re.S)
        if head:
            name = re.sub(r"<[^>]+>", " ", head[1]).strip()
            values = [float(one) for one in re.findall(r'<data value="([^"]+)"', row)]
            found.setdefault(" ".join(name.split()), []).append(values)
    return found


def median(one: RunRecord, metric: str) -> float:
    (series,) = [series for series in one.series if series.metric == metric]
    return statistics.median_low(series.samples)


def test_every_substrate_is_a_multiple_of_its_machines_floor(tmp_path: Path) -> None:
    tiers = ("full", POOL, FROZEN)
    guests = {tier: factory.cold_start(tier) for tier in (*tiers, "prewarm-pool")}
    floors = {tier: kvm_factory.floor(tier) for tier in tiers}
    found = rows(section(page(tmp_path, [*guests.values(), *floors.values()]), "floor"))
    for tier, guest in guests.items():
        base = floors.get(tier, floors[FROZEN])  # the floor keeps nothing that was booted
        expected = [median(guest, rung) / median(base, rung) for rung in factory.RUNGS]
        assert found.pop(f"{tier} qemu") == [pytest.approx(expected)]
    for tier, floor in floors.items():
        itself = [median(floor, rung) for rung in factory.RUNGS]
        assert found.pop(f"{tier} kvm-floor") == [pytest.approx(itself)]
    assert found == {}


def test_a_floor_of_another_machine_is_no_floor(tmp_path: Path) -> None:
    other = kvm_factory.floor(FROZEN)
    elsewhere = factory.machine("other-host", "kvm")
    other = dataclasses.replace(other, machine=elsewhere)
    part = section(page(tmp_path, [factory.cold_start(FROZEN), other]), "floor")
    assert set(rows(part)) == {f"{FROZEN} kvm-floor"}


def test_without_a_floor_the_page_says_how_to_measure_one(tmp_path: Path) -> None:
    part = section(page(tmp_path, [factory.cold_start(FROZEN)]), "floor")
    assert "not measured on this host" in part and "--substrate kvm-floor" in part
    assert rows(part) == {}


def test_the_floor_says_what_it_lacks_and_has_no_empty_rows(tmp_path: Path) -> None:
    text = page(tmp_path, [factory.cold_start(FROZEN), kvm_factory.floor(FROZEN)])
    assert "no kernel of its own, no devices and no system calls" in text
    ladder = rows(section(text, "ladder"))
    assert "durable-prewarm-pool kvm-floor" in ladder
    assert "full qemu" in ladder and "full kvm-floor" not in ladder
    assert "kvm-floor" not in section(text, "programs")


def test_the_floor_answers_no_claim(tmp_path: Path) -> None:
    controls = [factory.cold_start(FROZEN, substrate="noop"), kvm_factory.floor(FROZEN)]
    alone, both = (
        re.findall(
            r'class="badge ([^"]+)"', page(tmp_path / str(many), controls[:many], "claims.html")
        )
        for many in (1, 2)
    )
    assert alone == both


def test_kernels_stand_in_rows_of_their_own(tmp_path: Path) -> None:
    plain = kvm_factory.with_kernel("distribution", FROZEN, 1.0, turn="0000test/0/1")
    slim = kvm_factory.with_kernel("slim", FROZEN, 0.5, turn="0000test/1/1")
    alone = kvm_factory.with_kernel("slim", POOL, 0.5)
    base = factory.cold_start(POOL)
    text = page(tmp_path, [plain, slim, alone, base])
    ladder = rows(section(text, "ladder"))
    assert ladder[f"{FROZEN} qemu"] == [pytest.approx([median(plain, r) for r in factory.RUNGS])]
    assert ladder[f"{FROZEN}, slim kernel qemu"] == [
        pytest.approx([median(slim, r) for r in factory.RUNGS])
    ]
    part = section(text, "kernels")
    found = rows(part)
    assert found[f"{FROZEN}, slim kernel qemu"] == [
        pytest.approx([median(plain, r), median(slim, r), median(slim, r) / median(plain, r)])
        for r in factory.RUNGS
    ]
    assert part.count("in turns") == part.count("in separate runs") == len(factory.RUNGS)


def compared(*kinds: tuple[str, str, float]) -> RunRecord:
    """A comparison of these substrates, tiers and times of the first reply, in seconds."""
    series = [
        Series(
            "first-reply", "s", "lower",
            {"substrate": substrate, "tier": tier, "concurrency": 1}, "closed", (), [time] * 9,
        )
        for substrate, tier, time in kinds
    ]  # fmt: skip
    return factory.of_rig("compare", *series)


def test_the_comparison_has_multiples_of_the_floor(tmp_path: Path) -> None:
    made = compared(
        ("qemu", FROZEN, 0.0006), ("qemu", "prewarm-pool", 0.0009), ("docker", "full", 0.3),
        ("kvm-floor", FROZEN, 0.0002),
    )  # fmt: skip
    text = page(tmp_path, [made, kvm_factory.floor("full")], "compare.html")
    start = rows(section(text, "start"))
    full = median(kvm_factory.floor("full"), "first-reply")
    for name, expected in {
        f"qemu {FROZEN}": 3.0,
        "qemu prewarm-pool": 4.5,
        "docker full": 0.3 / full,
    }.items():
        assert start[name][0][-1] == pytest.approx(expected)
    assert "multiple of kvm-floor" in text
    (row,) = re.findall(r"<tr><th[^>]*>kvm-floor.*?</tr>", section(text, "is"), re.S)
    assert "no devices and no system calls" in row


def test_without_a_floor_the_comparison_has_no_column_for_it(tmp_path: Path) -> None:
    text = page(tmp_path, [compared(("qemu", FROZEN, 0.0006))], "compare.html")
    assert "kvm-floor" not in text


def test_guests_with_a_kernel_by_choice_do_not_stand_for_the_usual_ones(tmp_path: Path) -> None:
    base = compared(("qemu", FROZEN, 0.0006), ("qemu", POOL, 0.003))
    slim = dataclasses.replace(
        compared(("qemu", FROZEN, 0.0001), ("qemu", POOL, 0.0002)),
        run_id="20261109T120000Z-0a0a0a0a",
    )
    slim = kvm_factory.scaled(slim, 1.0, guest_kernel="slim")
    text = page(tmp_path, [base, slim], "compare.html")
    start = rows(section(text, "start"))
    assert start[f"qemu {FROZEN}"][0][0] == 0.0006 and len(start[f"qemu {POOL}"]) == 1
    front = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "0.0002" not in section(front, "comparison")


def test_a_machine_that_has_only_its_floor_shows_it(tmp_path: Path) -> None:
    floor = kvm_factory.floor(POOL)
    part = section(page(tmp_path, [floor]), "floor")
    assert "not measured" not in part
    found = rows(part)
    assert found == {
        f"{POOL} kvm-floor": [pytest.approx([median(floor, rung) for rung in factory.RUNGS])]
    }


def test_a_rung_that_the_floor_does_not_offer_has_no_multiple(tmp_path: Path) -> None:
    floor = kvm_factory.floor(POOL)
    refused = record.Failure(0, "it runs no programs (test)", "not-offered")
    series = tuple(
        dataclasses.replace(one, samples=(), failures=(refused,))
        if one.metric == "first-exec"
        else one
        for one in floor.series
    )
    guest = factory.cold_start(POOL)
    text = page(tmp_path, [guest, dataclasses.replace(floor, series=series)])
    rungs = [rung for rung in factory.RUNGS if rung != "first-exec"]
    found = rows(section(text, "floor"))
    assert found[f"{POOL} qemu"] == [
        pytest.approx([median(guest, rung) / median(floor, rung) for rung in rungs])
    ]
    ladder = section(text, "ladder")
    (row,) = re.findall(r"<tr><th[^>]*>durable-pool<small>kvm-floor.*?</tr>", ladder, re.S)
    assert "not offered" in row
