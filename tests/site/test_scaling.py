from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from harness.claims.published import load
from harness.measure.statistics import Estimate
from harness.site.charts import labels, svg
from harness.site.charts.labels import Mark
from harness.site.charts.scaling import Curve, Naive, Point, Reference, scaling_chart

PUBLISHED = Path(__file__).parents[2] / "results/published"
POINTS = [Point(n, Estimate(n * 1e-6, n * 0.9e-6, n * 1.2e-6)) for n in (1, 10, 100, 1000)]


def drawn(*curves: Curve, **more: object) -> ElementTree.Element:
    text = scaling_chart("c", "Growth", "s", "addresses", curves, **more)  # type: ignore[arg-type]
    return ElementTree.fromstring(str(text))


def paths(root: ElementTree.Element, kind: str) -> list[str]:
    return [one.get("d", "") for one in root.iter("path") if one.get("class") == kind]


def test_a_curve_in_proportion_is_a_straight_line_with_a_whisker_at_each_point() -> None:
    root = drawn(Curve("set", POINTS))
    (line,) = paths(root, "line")
    at = [(float(x), float(y)) for x, y in re.findall(r"[ML](\d+) ([\d.]+)", line)]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(at)]
    assert len(at) == 4 and all(x > 0 > y for x, y in steps)
    assert all(abs(x - steps[0][0]) <= 1 and abs(y - steps[0][1]) < 2 for x, y in steps)
    assert paths(root, "whisker")[0].count("M") == 4
    assert paths(root, "point")[0].count("h0") == 4


def test_points_without_bounds_have_no_whisker_and_order_does_not_matter() -> None:
    bare = [Point(10, Estimate(2e-3, None, None)), Point(1, Estimate(1e-3, None, None))]
    root = drawn(Curve("bare", bare))
    assert paths(root, "whisker") == []
    assert paths(root, "line")[0].startswith(f"M{round(0.11 * svg.GRAIN)} ")


def test_the_key_shows_the_value_at_the_largest_n_and_what_was_not_measured() -> None:
    text = str(
        scaling_chart("c", "t", "s", "N", [Curve("a & b", POINTS, "suspect"), Curve("none", [])])
    )
    assert "a &amp; b" in text and 'data-value="0.001"' in text and " at 1\u202f000" in text
    assert "suspect" in text and "not measured" in text


def test_others_figures_are_diamonds_or_lines_and_widen_the_axes() -> None:
    figure = next(one for one in load(PUBLISHED) if one.id == "nftban.single")
    beside = drawn(Curve("set", POINTS), references=[Reference(figure, "NFTBan", 1)])
    assert len(paths(beside, "other")) == 1
    across = drawn(Curve("set", POINTS), references=[Reference(figure, "NFTBan")])
    assert [one.get("class") for one in across.iter("line")].count("claim") == 1
    assert any(one.text == "100 ms" for one in across.iter("text"))


@pytest.mark.parametrize(("share", "shape"), [(1.02, svg.WIDE_DIAMOND), (5, svg.DIAMOND)])
def test_a_published_mark_surrounds_a_point_that_it_would_cover(share: float, shape: str) -> None:
    figure = next(one for one in load(PUBLISHED) if one.id == "nftban.single")
    assert figure.value
    point = Point(1, Estimate(figure.value * share, None, None))
    root = drawn(Curve("set", [*POINTS, point]), references=[Reference(figure, "NFTBan", 1)])
    assert paths(root, "other") == [shape]


@pytest.mark.parametrize("growth", [1.0, 50.0])
def test_a_naive_line_ends_inside_the_plot(growth: float) -> None:
    start = Point(1, Estimate(growth * 1e-6, None, None))
    (line,) = paths(drawn(Curve("set", POINTS), naive=Naive(start, "in proportion")), "naive")
    (x, y) = re.findall(r"L(\d+) ([\d.]+)", line)[0]
    assert int(x) <= svg.GRAIN and float(y) >= 0


def test_words_beside_marks_cover_neither_each_other_nor_a_line() -> None:
    near = [Mark(0.69, 100, "CubeSandbox 21.5 MB"), Mark(0.57, 103, "18 MiB"), Mark(0.78, 96, "26")]
    found = labels.spots([*near, Mark(0.75, 104)])
    boxes = []
    for mark, spot in zip(near, found, strict=False):
        length = 7 * len(mark.words)
        start = (
            350 * mark.share + spot.dx - length * {"start": 0, "middle": 0.5, "end": 1}[spot.anchor]
        )
        assert start >= 0 and start + length <= 350
        boxes.append((start, start + length, mark.y + spot.dy))
    for one, other in itertools.combinations(boxes, 2):
        assert one[1] < other[0] or other[1] < one[0] or abs(one[2] - other[2]) > 10
    (beside,) = labels.spots([Mark(0.58, 0, "Coppice 17 ms")], [0.66], below=False)
    assert beside == labels.LEFT
    (beside,) = labels.spots([Mark(0.05, 0, "Coppice 17 ms")], [0.1], below=False)
    assert beside == labels.RIGHT
