"""Histories: one page for each rig of a machine, the commit at each point, and days on which the
machine moved as a whole."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.measure import record
from harness.measure.record import Git, RunRecord
from harness.paths import PUBLISHED
from harness.site.builder.build import build
from harness.site.data import tracks
from harness.site.data.corpus import Corpus, load
from harness.site.data.machine_days import MachineDay, Step, days_of, explained
from harness.site.pages.history import parts_of
from tests.site import factory

HISTORY = f"history/{factory.HOST}.cold-start"


def run(day: int, factor: float = 1.0, commit: str = "a", substrate: str = "qemu") -> RunRecord:
    """A run whose samples are all `factor` times those of the same seed."""
    made = factory.cold_start("durable-pool", n=30, day=day, seed="s", substrate=substrate)
    first = factory.cold_start("durable-pool", n=30, day=1, seed="s", substrate=substrate)
    series = [
        dataclasses.replace(one, samples=[factor * value for value in one.samples])
        for one in first.series
    ]
    return dataclasses.replace(
        made, series=tuple(series), git=Git(commit * 40, False), rig=first.rig, images=first.images
    )


def site(tmp_path: Path, *records: RunRecord) -> Path:
    for one in records:
        record.write(one, tmp_path / "results")
    build(tmp_path / "results", tmp_path / "out")
    return tmp_path / "out"


def corpus(tmp_path: Path, *records: RunRecord) -> Corpus:
    for one in records:
        record.write(one, tmp_path / "results")
    return load(tmp_path / "results", PUBLISHED)


def test_all_series_of_a_rig_are_on_one_page_with_the_commit_at_each_point(tmp_path: Path) -> None:
    out = site(tmp_path, run(1, commit="a"), run(2, commit="b"), run(3, commit="c"))
    pages = sorted(path.name for path in out.glob("history/**/*.html"))
    assert pages == [f"{factory.HOST}.cold-start.html", f"{factory.HOST}.html"]
    text = (out / f"{HISTORY}.html").read_text(encoding="utf-8")
    for metric in factory.RUNGS:
        (body,) = re.findall(rf'<tbody>\s*<tr><th[^>]*id="{metric}-[^"]*">.*?</tbody>', text, re.S)
        assert re.findall(r"<code>(\w+)</code>", body) == ["cccccccc", "bbbbbbbb", "aaaaaaaa"]
    rows = list(csv.DictReader((out / f"{HISTORY}.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["commit"][0] for row in rows] == list("abc") * len(factory.RUNGS)
    assert f"{HISTORY}.html" in (out / "sitemap.xml").read_text(encoding="utf-8")


def test_a_chart_is_drawn_where_a_table_would_not_be_read_at_once(tmp_path: Path) -> None:
    out = site(tmp_path, *(run(day) for day in range(1, 4)))
    assert "<svg" not in (out / f"{HISTORY}.html").read_text(encoding="utf-8").partition("<main")[2]
    out = site(tmp_path, run(4))
    text = (out / f"{HISTORY}.html").read_text(encoding="utf-8").partition("<main")[2]
    assert text.count('<svg class="chart"') == len(factory.RUNGS)


def test_a_regression_leads_to_its_series_and_names_both_commits(tmp_path: Path) -> None:
    out = site(tmp_path, run(1, commit="a"), run(2, 3.0, commit="b"))
    found = json.loads((out / "regressions.json").read_text(encoding="utf-8"))["regressions"]
    assert len(found) == len(factory.RUNGS)
    for one in found:
        page, _, anchor = one["page"].partition("#")
        assert f'id="{anchor}"' in (out / page).read_text(encoding="utf-8")
        assert [commit[0] for commit in one["commits"]] == ["a", "b"]
        assert one["machine_moved"] is None, "one rig and substrate alone is no machine"


def test_a_day_on_which_everything_moved_is_the_machine_and_not_the_code(tmp_path: Path) -> None:
    both = [("qemu", 1.6), ("noop", 1.5)]
    out = site(
        tmp_path,
        *(run(1, substrate=name) for name, _ in both),
        *(run(2, factor, "b", name) for name, factor in both),
    )
    text = (out / f"{HISTORY}.html").read_text(encoding="utf-8")
    assert "2026-11-02: the machine, not the code." in text
    assert "10 of 10 series became slower together" in text
    assert text.count("with the whole machine") == 10
    assert "10 of these changed together with the whole machine" in (
        out / "history.html"
    ).read_text(encoding="utf-8")
    found = json.loads((out / "regressions.json").read_text(encoding="utf-8"))["regressions"]
    assert len(found) == 10 and all(1.5 <= one["machine_moved"] <= 1.6 for one in found)


def test_what_moved_much_further_than_the_machine_is_not_excused(tmp_path: Path) -> None:
    first = [run(1, substrate=name) for name in ("qemu", "noop")]
    second = [run(2, 1.3, "b", name) for name in ("qemu", "noop")]
    series = list(second[0].series)
    series[2] = dataclasses.replace(series[2], samples=[4 * one for one in series[2].samples])
    found = corpus(
        tmp_path, *first, dataclasses.replace(second[0], series=tuple(series)), second[1]
    )
    several = tracks.tracks(found, factory.HOST)
    assert len(tracks.machine_days(found, factory.HOST)) == 1
    alone = [one.series.metric for one in several if one.newest.changed and not one.newest.day]
    assert alone == [series[2].metric]


def steps(*by_subject: Sequence[float], **changes: object) -> list[Step]:
    made = [
        Step("2026-01-02", True, ("rig", name), "s", 1.0, factor)
        for name, factors in enumerate(by_subject)
        for factor in factors
    ]
    return [dataclasses.replace(one, **changes) for one in made]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("several", "moved"),
    [
        (steps([1.5] * 6, [1.2] * 6), True),
        (steps([0.5] * 6, [0.8] * 6), True),
        # Fewer than ten; one subject; the other did not move, or the other way.
        (steps([1.5] * 5, [1.2] * 4), False),
        (steps([1.5] * 12), False),
        (steps([1.5] * 12, [1.2] * 2), False),
        (steps([1.5] * 9, [1.05] * 3), False),
        (steps([1.5] * 30, [0.8] * 3), False),
        # A tenth may stay behind, no more.
        (steps([1.5] * 9 + [0.9], [1.2] * 10), True),
        (steps([1.5] * 7 + [0.9] * 3, [1.2] * 7), False),
        # What does not depend on a machine's speed; two runs of one day.
        (steps([1.5] * 6, [1.2] * 6, unit="bytes"), False),
        (steps([1.5] * 6, [1.2] * 6, overnight=False), False),
        ([], False),
    ],
)  # fmt: skip
def test_a_machine_moved_if_several_subjects_did_together(several: list[Step], moved: bool) -> None:
    assert bool(days_of(several)) is moved


def test_rates_that_fall_are_slower_like_times_that_rise() -> None:
    rates = steps([0.5] * 6, unit="1/s")
    (day,) = days_of([*rates, *steps([], [2.0] * 6, other_kernel=True)])
    assert day == MachineDay("2026-01-02", day.factor, 12, 12, ("rig", "rig 1"), False)
    assert math.isclose(day.factor, 2)
    assert day.slower and explained(rates[0], day)
    assert not explained(steps([0.5])[0], day)
    assert math.isclose(days_of(steps([0.5] * 6, [0.5] * 6, other_kernel=True))[0].factor, 0.5)
    assert days_of(steps([0.5] * 6, [0.5] * 6, other_kernel=True))[0].other_kernel


def test_a_rig_with_many_series_has_several_pages_and_each_series_is_on_one(
    tmp_path: Path,
) -> None:
    found = corpus(tmp_path, run(1), run(2))
    (one, *_) = tracks.tracks(found, factory.HOST)
    many = [dataclasses.replace(one) for _ in range(200)]
    (pages,) = parts_of("m", many).values()
    assert [page.path for page in pages][:2] == ["history/m.cold-start", "history/m.cold-start.2"]
    assert [track for page in pages for track in page.tracks] == many
