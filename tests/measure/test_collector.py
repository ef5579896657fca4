"""What a rig adds becomes series with one name and set of dimensions each, in order."""

from __future__ import annotations

from harness.measure.collector import Collector
from harness.measure.record import Failure


def test_samples_of_the_same_metric_and_dimensions_make_one_series() -> None:
    collector = Collector(substrate="qemu")
    collector.add("reply", "s", [0.1], n=2)
    collector.add("sent", "1/s", [5.0], (), "higher")
    collector.add("reply", "s", [0.2], n=2)
    collector.add("reply", "s", [0.3], n=3)
    found = [(one.metric, dict(one.dimensions), one.samples) for one in collector.series]
    assert found == [
        ("reply", {"substrate": "qemu", "n": 2}, [0.1, 0.2]),
        ("sent", {"substrate": "qemu"}, [5.0]),
        ("reply", {"substrate": "qemu", "n": 3}, [0.3]),
    ]
    assert [(one.unit, one.better) for one in collector.series[:2]] == [
        ("s", "lower"),
        ("1/s", "higher"),
    ]


def test_an_attempt_that_fails_is_counted_among_the_samples_before_it() -> None:
    collector = Collector()
    collector.add("reply", "s", [0.1, 0.2])
    collector.fail("reply", "s", "GuestTimeout")
    collector.add("reply", "s", [0.4])
    collector.fail("reply", "s", "GuestDied")
    (series,) = collector.series
    assert series.samples == [0.1, 0.2, 0.4]
    assert series.failures == [Failure(2, "GuestTimeout"), Failure(4, "GuestDied")]


def test_failures_given_with_their_attempt_are_kept_as_given() -> None:
    collector = Collector()
    collector.add("reply", "s", [0.1], [(0, "GuestTimeout"), (2, "GuestDied")])
    (series,) = collector.series
    assert series.failures == [Failure(0, "GuestTimeout"), Failure(2, "GuestDied")]


def test_without_an_attempt_there_is_no_series() -> None:
    collector = Collector()
    collector.add("reply", "s", [])
    assert collector.series == []


def test_a_dimension_may_have_the_name_of_an_argument() -> None:
    collector = Collector()
    collector.add("reply", "s", [0.1], metric="a", unit="b", samples="c", better="d")
    (series,) = collector.series
    assert dict(series.dimensions) == {"metric": "a", "unit": "b", "samples": "c", "better": "d"}
