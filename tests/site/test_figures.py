from __future__ import annotations

import pytest

from harness.measure import quantity
from harness.measure.record import Failure, Series, Validity
from harness.measure.statistics import Estimate
from harness.site.data import corpus, figures, run_rows
from tests.site import factory


def series(samples: list[float], failures: tuple[Failure, ...] = ()) -> Series:
    return Series("first-reply", "s", "lower", {}, "closed", (), samples, failures)


@pytest.mark.parametrize(
    ("value", "low", "high", "shown", "interval"),
    [
        (0.000512, 0.000508, 0.000519, "0.51 ms", "0.50–0.52"),
        (0.000512, 0.0005119, 0.0005121, "0.5120 ms", "0.5119–0.5121"),
        (0.0148, 0.0142, 0.0151, "14.8 ms", "14.2–15.1"),
        (0.0148, 0.009, 0.031, "15 ms", "9–31"),
        (1.5234, 1.42, 1.61, "1.5 s", "1.4–1.7"),
        (100.194, 99.0, 101.0, "100 s", "99–101"),
        (0.00003, 0.0000297, 0.0000304, "30.0 µs", "29.7–30.4"),
        (0.00051, 0.00051, 0.00051, "0.5100 ms", "0.5100–0.5100"),
        (0.0, -0.001, 0.001, "0 ns", None),
        (-0.002, None, None, "\u22122.0 ms", ""),
        (-0.002, -0.004, 0.001, "\u22122.0 ms", "\u22124.0 to 1.0"),
        (0.5, None, 0.6, "500 ms", ""),
    ],
)
def test_digits_follow_the_width_of_the_interval(
    value: float, low: float | None, high: float | None, shown: str, interval: str | None
) -> None:
    estimate = Estimate(value, low, high)
    assert quantity.show(estimate, "s") == shown
    if interval is not None:
        assert quantity.show_interval(estimate, "s") == interval


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (9117 * 2**20, "bytes", "8.9 GiB"),
        (58 * 2**10, "bytes", "58 KiB"),
        (1.825e9, "bytes/s", "15 Gbit/s"),
        (250_000, "1/s", "250 k/s"),
        (12345.0, "1", "12\u202f000"),
    ],
)
def test_other_units(value: float, unit: str, shown: str) -> None:
    assert quantity.show(Estimate(value, None, None), unit) == shown


def test_a_percentile_without_both_bounds_is_not_shown_and_says_why() -> None:
    few = series([0.001 * k for k in range(1, 72)])
    enough = series([0.001 * k for k in range(1, 73)])
    assert figures.get(few, "p95") is None
    assert figures.why_absent(few, "p95") == "needs 72 samples, has 71"
    assert figures.get(enough, "p95") is not None
    failed = series([], (Failure(0, "x"), Failure(1, "y")))
    assert figures.get(failed, "p50") is None
    assert figures.why_absent(failed, "p50") == "all 2 failed"
    assert figures.why_absent(series([]), "p95") == "no sample"


def test_interval_always_contains_the_samples_that_bound_it() -> None:
    for n in (10, 30, 100, 400):
        one = series(factory.samples(0.00052, n, f"bounds {n}"))
        estimate = figures.get(one, "p50")
        assert estimate and estimate.low is not None and estimate.high is not None
        size, _ = quantity.scale(estimate.value, "s")
        low, high = quantity.show_interval(estimate, "s").split("–")
        assert float(low) * size <= estimate.low * (1 + 1e-6)
        assert float(high) * size >= estimate.high * (1 - 1e-6)


def entry(status: str) -> corpus.RecordEntry:
    validity = Validity(status, ("why",))  # type: ignore[arg-type]
    made = factory.cold_start("durable-pool", validity=validity)
    return corpus.entry_of(made)


def test_a_figure_leads_to_its_row_and_carries_the_mark_of_its_run() -> None:
    suspect, valid = entry("suspect"), entry("valid")
    one = valid.find("first-reply", tier="durable-pool")
    assert one
    html = figures.figure(valid, one, "p50", lambda path: f"../{path}")
    assert html.startswith("<data value=")
    assert 'href="../runs/a/b.html#/series/2.p50"' in html
    assert "mark" not in html
    html = figures.figure(suspect, one, "p50", lambda path: path)
    assert 'href="runs/a/b.html#validity">suspect</a>' in html
    assert "suspect" in figures.figure(suspect, series([]), "p50", lambda path: path)


def test_anchors_tell_series_of_one_metric_apart() -> None:
    record = factory.cold_start("full")
    one = record.series[0]
    assert corpus.anchor(record, one) == "/series/0"
    two = Series("x", "s", "lower", {"n": 8, "same": "a"}, "closed")
    three = Series("x", "s", "lower", {"n": 50, "same": "a"}, "closed")
    many = type(record)(**{**vars(record), "series": (two, three)})
    assert [corpus.anchor(many, each) for each in many.series] == ["/series/0", "/series/1"]
    assert run_rows.own_dimensions(many) == [{"n": 8}, {"n": 50}]
