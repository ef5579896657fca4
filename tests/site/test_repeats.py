"""Within-run and between-run spread are shown apart, and repeated readings have no interval."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import pytest

from harness import paths
from harness.claims import claims, published
from harness.measure.record import Facts, Git, Image, RunRecord, Series, Validity
from harness.site.data import evidence, figures
from harness.site.data.corpus import Corpus, RecordEntry, entry_of, with_marks
from tests.site import factory

_BOOT_S = 86_400.0


def run(day: int, *, seed: str = "", validity: str = "valid", uptime_s: float = 60) -> RunRecord:
    """A run of one environment; each day has a level of its own."""
    made = factory.cold_start("durable-prewarm-pool", day=day, n=40, seed=seed)
    series = [
        dataclasses.replace(one, samples=[value * (1 + day / 10) for value in one.samples])
        for one in made.series
    ]
    return dataclasses.replace(
        made,
        rig=dataclasses.replace(made.rig, sha256="a" * 64),
        images=(Image("guest (made up)", "b" * 64, {}),),
        validity=Validity(validity),  # type: ignore[arg-type]
        machine=dataclasses.replace(made.machine, before={"uptime_s": uptime_s}),
        series=series,
    )


def entries(*records: RunRecord) -> Sequence[RecordEntry]:
    made = [entry_of(one, f"runs/a/{number}") for number, one in enumerate(records)]
    return with_marks(made, {}, {}, "2026-11-30")


def spread(entry: RecordEntry, metric: str = "first-reply") -> str:
    series = entry.find(metric)
    summary = entry.summary.find(metric, {})
    assert series and summary
    assert figures.spread(entry, series) == figures.spread(entry, summary)
    return figures.spread(entry, series)


def test_one_run_is_called_that() -> None:
    (alone,) = entries(run(1))
    assert spread(alone) == "one run"
    summary = alone.summary.find("first-reply", {})
    assert summary and figures.spread(alone.unmarked, summary) == "one run"


def test_two_runs_show_their_medians_and_no_interval() -> None:
    _, newest = entries(run(1), run(2))
    assert re.fullmatch(r"medians of 2 runs on 2 days, 2 boots: 0\.\d+–0\.\d+ ms", spread(newest))


def test_three_runs_have_an_interval_that_is_wider_than_that_within_one() -> None:
    *_, newest = entries(run(1), run(2), run(3))
    assert re.fullmatch(r"between 3 runs on 3 days, 3 boots: 0\.\d+–\d\.\d+ ms", spread(newest))
    series = newest.summary.find("first-reply", {})
    assert series
    between, within = figures.between(newest, series), series.get("p50")
    assert between and between.typical and within
    assert between.low <= within.value <= between.high
    wide, narrow = between.typical, within
    assert wide.low and wide.high and narrow.low and narrow.high
    assert wide.high - wide.low > narrow.high - narrow.low
    shown = str(figures.figure(newest, series, "p50", str, interval=True))
    assert shown.index("interval") < shown.index("between 3 runs") < shown.index("emulated")
    assert "between" not in str(figures.figure(newest, series, "p95", str, interval=True))


def shown(entry: RecordEntry, statistic: str, *, marked: bool = True) -> str:
    series, summary = entry.find("first-reply"), entry.summary.find("first-reply", {})
    assert series and summary
    if statistic != "mean":
        return str(figures.figure(entry, summary, statistic, str, interval=True, marked=marked))
    estimate = figures.get(series, statistic)
    assert estimate
    return str(figures.derived(entry, series, estimate, "s", str, statistic))


@pytest.mark.parametrize(("statistic", "name"), [("p90", "p90"), ("mean", "means")])
def test_every_statistic_says_of_how_many_runs_it_is(statistic: str, name: str) -> None:
    (alone,) = entries(run(1))
    *_, newest = entries(run(1), run(2), run(3))
    assert '<small class="runs">one run</small>' in shown(alone, statistic)
    several = re.search(
        rf"{name} of 3 runs on 3 days, 3 boots: (\d\.\d+)–(\d\.\d+) ms", shown(newest, statistic)
    )
    assert several and float(several[1]) < float(several[2])


def test_beside_another_figure_of_the_run_one_run_is_not_said_twice() -> None:
    (alone,) = entries(run(1))
    *_, newest = entries(run(1), run(2), run(3))
    assert "one run" not in shown(alone, "p90", marked=False)
    assert "p90 of 3 runs" in shown(newest, "p90", marked=False)


def of_gateway(day: int, commit: str, *, dirty: bool = False, factor: float = 1.0) -> RunRecord:
    """A run over our gateway's API, with a level of its own."""
    made = run(day)
    where: Facts = {"substrate": "qemu", "sdk": "http", "concurrency": 50}
    samples = [factor * (0.1 + number / 10_000) for number in range(100)]
    series = Series("create-headers", "s", "lower", where, "closed", (), samples)
    rig = dataclasses.replace(made.rig, id="e2b-latency")
    return dataclasses.replace(made, series=(series,), rig=rig, git=Git(commit, dirty))


A, B = "a" * 40, "b" * 40


def test_where_our_gateway_was_measured_another_commit_is_another_environment() -> None:
    *_, newest = entries(of_gateway(1, A), of_gateway(2, B), of_gateway(3, A))
    assert "2 runs on 2 days" in spread(newest, "create-headers")
    *_, newest = entries(of_gateway(1, A, dirty=True), of_gateway(2, A, dirty=True))
    assert spread(newest, "create-headers") == "one run"
    # Elsewhere the harness's commit changes nothing that is measured.
    *_, newest = entries(run(1), dataclasses.replace(run(2), git=Git(B, False)))
    assert "2 runs" in spread(newest)


@pytest.mark.parametrize(
    ("several", "verdict", "notes"),
    [
        ([(A, 1), (A, 4), (A, 1)], "reached here", ["1 of 3 runs on the other side"]),
        ([(A, 1), (A, 1), (A, 4)], "not reached here", ["2 of 3 runs on the other side"]),
        ([(B, 4), (B, 1), (A, 1)], "reached here",
         ["1 of 2 runs of other commits on the other side"]),
        ([(A, 1), (B, 1), (A, 1)], "reached here", []),
    ],
)  # fmt: skip
def test_a_verdict_says_which_runs_lie_on_the_other_side(
    several: Sequence[tuple[str, float]], verdict: str, notes: Sequence[str]
) -> None:
    known = published.load(paths.PUBLISHED)
    (claim,) = [one for one in claims.load(known) if one.id == "cubesandbox-june-fifty"]
    made = entries(*(of_gateway(day, one[0], factor=one[1]) for day, one in enumerate(several, 1)))
    found = Corpus(made, (), known, [claim])
    one = evidence.deciding(evidence.judged(found, claim, found.machine))
    assert one and one.finding.verdict == verdict
    assert list(one.finding.runs) == notes
    assert one.finding.text.endswith(", ".join(notes))


def test_runs_within_one_life_of_the_machine_say_so() -> None:
    several = [run(day, uptime_s=_BOOT_S * day + 17 * day) for day in (1, 2, 3)]
    assert spread(entries(*several)[-1]).startswith("between 3 runs on 3 days: ")
    unknown = dataclasses.replace(
        several[0], machine=dataclasses.replace(several[0].machine, before={})
    )
    assert "boots" not in spread(entries(unknown, run(2), run(3))[-1])


@pytest.mark.parametrize(
    "other",
    [
        run(2, validity="suspect"),
        dataclasses.replace(run(2), machine=dataclasses.replace(run(2).machine, kernel="7.0")),
        dataclasses.replace(run(2), images=(Image("guest (made up)", "c" * 64, {}),)),
        dataclasses.replace(run(2), rig=dataclasses.replace(run(2).rig, sha256="d" * 64)),
        dataclasses.replace(run(2), machine=dataclasses.replace(run(2).machine, accelerator="kvm")),
    ],
    ids=["suspect", "kernel", "image", "rig", "accelerator"],
)
def test_a_run_of_another_environment_is_no_repetition(other: RunRecord) -> None:
    first, _, third = entries(run(1), other, run(3))
    assert spread(first) == spread(third) and "2 runs on 2 days" in spread(third)


def test_an_earlier_version_of_the_rig_that_measured_the_same_counts() -> None:
    old = dataclasses.replace(run(1), rig=dataclasses.replace(run(1).rig, sha256="d" * 64))
    made = [entry_of(one, f"runs/a/{number}") for number, one in enumerate([old, run(2)])]
    alike = {old.rig.path: ("a" * 64, "d" * 64)}
    assert "2 runs" in spread(with_marks(made, alike, {}, "2026-11-30")[-1])


def test_repeated_readings_have_a_median_and_no_interval() -> None:
    readings = [100.0e6 + number for number in range(11)]
    one = Series("host-change", "bytes", "lower", {"n": 8}, "closed", (), readings)
    guests = dataclasses.replace(one, metric="guest-pss")
    (entry,) = entries(dataclasses.replace(run(1), series=[one, guests]))
    assert spread(entry, "host-change") == "11 repeated readings, one run"
    median = figures.get(one, "p50")
    assert median and (median.value, median.low, median.high) == (100.0e6 + 5, None, None)
    assert spread(entry, "guest-pss") == "one run"
    of_guests = figures.get(guests, "p50")
    assert of_guests and of_guests.bounded
