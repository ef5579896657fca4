from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.claims import published
from harness.claims.published import PublishedError
from harness.paths import PUBLISHED
from harness.site.data.publishers import ORIGINAL

GOOD = {
    "id": "who.what",
    "topic": "cold-start",
    "what": "something",
    "as_written": "17 ms",
    "value": 0.017,
    "unit": "s",
    "statistic": "mean",
    "when": "2026-05",
    "clock": "unknown",
    "label": "advertised",
    "source": "https://example.org/page",
}


def write(directory: Path, *figures: Any, name: str = "who.yaml", **top: Any) -> Path:
    data = {"publisher": "Who", "figures": list(figures), **top}
    (directory / name).write_text(yaml.safe_dump(data, allow_unicode=True))
    return directory


def test_a_good_file(tmp_path: Path) -> None:
    (one,) = published.load(write(tmp_path, GOOD))
    assert (one.publisher, one.subject, one.value) == ("Who", "Who", 0.017)


def test_defaults_are_overridden_by_the_figure(tmp_path: Path) -> None:
    bare = {key: value for key, value in GOOD.items() if key != "label"}
    write(tmp_path, bare, {**GOOD, "id": "who.b"}, defaults={"label": "third-party"})
    first, second = published.load(tmp_path)
    assert (first.label, second.label) == ("third-party", "advertised")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clock": "sundial"}, "unknown clock 'sundial'"),
        ({"label": "rumour"}, "unknown label 'rumour'"),
        ({"unit": "ms"}, "unknown unit 'ms'"),
        ({"when": "last week"}, "a date, a year or unknown"),
        ({"when": 2026}, "when must be text"),
        ({"source": "http://example.org"}, "https address"),
        ({"source": ""}, "source missing"),
        ({"id": "Who What"}, "lower-case words"),
        ({"value": 0.018}, "means value 0.017, but the file says 0.018"),
        ({"value": True, "as_written": "1", "unit": "1"}, "means value 1.0"),
        ({"value": None}, "means value 0.017, but the file says None"),
        ({"value": "17"}, "means value 0.017"),
        ({"upper": 0.02}, "means upper None"),
        ({"as_written": "17 MiB"}, "is in bytes, not s"),
        ({"as_written": "17 parsecs"}, "cannot read '17 parsecs'"),
        ({"as_written": "soon"}, "no number in 'soon'"),
        ({"colour": "green"}, "unknown key colour"),
    ],
)
def test_each_error_names_the_file_and_the_figure(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(PublishedError) as caught:
        published.load(write(tmp_path, {**GOOD, **change}))
    assert message in str(caught.value)
    assert "who.yaml" in str(caught.value)
    assert str(change.get("id", "who.what")) in str(caught.value)
    assert caught.value.exit_code == 65


def test_an_id_stands_once_over_all_files(tmp_path: Path) -> None:
    write(tmp_path, GOOD, name="a.yaml")
    write(tmp_path, GOOD, name="b.yaml")
    with pytest.raises(
        PublishedError, match=r"b\.yaml: who\.what: duplicate id, also in .*a\.yaml"
    ):
        published.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("figures: [", "is not YAML"),
        ("- 1\n", "must be a mapping"),
        ("publisher: x\n", "must be a mapping with"),
        ("publisher: x\nfigures: 3\n", "must be a list"),
        ("publisher: x\nfigures: [3]\n", "figure 0 must be a mapping"),
        ("publisher: x\nfigures: [{what: y}]\n", "without id"),
    ],
)
def test_a_file_of_another_shape(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(PublishedError, match=message):
        published.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "low", "high", "of", "unit"),
    [
        ("100 194 ms", 100.194, None, None, "s"),
        ("<60 ms", 0.06, None, None, "s"),
        ("~26 MiB", 26 * 2**20, None, None, "bytes"),
        ("6–16 ms", 0.006, 0.016, None, "s"),
        ("9/17", 9, None, 17, "1"),
        ("14.6 Gbit/s", 14.6e9 / 8, None, None, "bytes/s"),
        ("180.9 /s", 180.9, None, None, "1/s"),
        ("> 95 %", 0.95, None, None, "1"),
    ],
)
def test_quantities(text: str, low: float, high: float | None, of: float | None, unit: str) -> None:
    found = published.quantity(text)
    assert found and (found.high, found.of, found.unit) == (
        None if high is None else pytest.approx(high),
        of,
        unit,
    )
    assert found.low == pytest.approx(low)


def test_ours_load_and_hold_what_the_pages_need() -> None:
    figures = published.load(PUBLISHED)
    by_id = {one.id: one for one in figures}
    tiers = {
        one.dimensions["tier"]: one.value
        for one in figures
        if one.publisher == ORIGINAL and one.concurrency == 1 and one.dimensions
    }
    assert tiers == {
        "full": 3.906,
        "durable-pool": 0.271,
        "durable-prewarm-pool": 0.017,
        "prewarm-pool": 0.01,
    }
    assert by_id["cubesandbox.readme.cc1"].label == "advertised"
    assert by_id["cubesandbox.readme.cc1"].clock == "api-response"
    # A figure that contradicts another of the same publisher must say so.
    for id in (
        "coppice.density.headline",
        "coppice.bhyve-durable-prewarm-pool.cc1",
        "coppice.bhyve-durable-prewarm-pool.cc10",
        "coppice.density.1000.per-guest",
        "cubesandbox.readme.cc50-avg",
        "cubesandbox.readme.memory",
    ):
        assert by_id[id].remark, id


def test_the_remark_on_gibibytes_is_right() -> None:
    by_id = {one.id: one for one in published.load(PUBLISHED)}
    total = by_id["coppice.density.1000.total"].value
    said = re.search(r"is (\d\.\d\d) GiB", by_id["coppice.density.headline"].remark)
    assert total and said and float(said[1]) == round(total / 2**30, 2)
