from __future__ import annotations

import math

import pytest

from harness.site.charts import axis


def test_decades_are_labelled_in_plain_words() -> None:
    scale = axis.decades([0.00002, 3.9], "s")
    assert [tick.label for tick in scale.ticks] == [
        "10 µs",
        "100 µs",
        "1 ms",
        "10 ms",
        "100 ms",
        "1 s",
        "10 s",
    ]
    assert scale.place(1e-5) == 0
    assert scale.place(10.0) == 1
    assert math.isclose(scale.place(0.01), 0.5)
    assert scale.place(0.0) == 0


def test_decades_of_exact_powers_and_of_nothing() -> None:
    assert [tick.label for tick in axis.decades([0.001, 0.1], "s").ticks] == [
        "1 ms",
        "10 ms",
        "100 ms",
    ]
    assert len(axis.decades([0.01], "s").ticks) == 2
    assert len(axis.decades([], "s").ticks) >= 2
    assert axis.decades([1e-9, 1e-10], "s").ticks[0].label == "0.1 ns"


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.00048, 0.00071], ["0.4 ms", "0.5 ms", "0.6 ms"]),
        ([0.0, 0.0009], ["0 ms", "0.5 ms", "1 ms"]),
        ([0.9, 3.1], ["0 s", "1 s", "2 s", "3 s", "4 s"]),
    ],
)
def test_linear_ticks_are_round(values: list[float], labels: list[str]) -> None:
    scale = axis.fitting(values, "s")
    assert not scale.log
    found = [tick.label for tick in scale.ticks]
    assert found[: len(labels)] == labels
    assert scale.low <= min(values) and scale.high >= max(values)


def test_a_wide_span_is_logarithmic_and_a_constant_has_an_axis() -> None:
    wide = axis.fitting([0.0003, 0.0004, 0.09], "s")
    assert wide.log
    assert wide.low <= 0.0003 and wide.high >= 0.09
    flat = axis.fitting([0.005, 0.005], "s")
    assert 0 < flat.place(0.005) < 1
    assert axis.fitting([], "s").high > axis.fitting([], "s").low
    assert 0 <= axis.fitting([0.0, 0.0], "s").place(0.0) <= 1


def test_ticks_rise_and_stand_apart() -> None:
    for low, high in ((1e-6, 3e-6), (0.013, 0.019), (99.0, 1234.0), (7.0, 7.1), (1e-4, 0.4)):
        scale = axis.fitting([low, high], "s")
        places = [scale.place(tick.value) for tick in scale.ticks]
        assert places == sorted(set(places))
        assert 2 <= len(places) <= 8
        assert len({tick.label for tick in scale.ticks}) == len(places)


def test_decades_of_bytes_are_decades_of_mib() -> None:
    scale = axis.decades([3.0 * 2**20, 2e9], "bytes")
    assert [tick.label for tick in scale.ticks] == [
        "1 MiB",
        "10 MiB",
        "100 MiB",
        "1\u202f000 MiB",
        "10\u202f000 MiB",
    ]
    assert scale.low == 2**20 and scale.place(2**20 * 100) == 0.5
