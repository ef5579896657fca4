from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from markupsafe import Markup

from harness.claims import matrices, published
from harness.claims.published import PublishedError
from harness.paths import PUBLISHED
from harness.site.charts.chart import COLUMNS, ChartRow
from harness.site.charts.strip import ReferenceLine, Strip, StripPicture
from harness.site.data import figures
from harness.site.data.addresses import published_page
from harness.site.data.publishers import ORIGINAL
from tests.site.conftest import Made

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
    (directory / name).write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
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


GONE = {
    "when": "2026-07-09",
    "by": "Who",
    "source": "https://example.org/report",
    "why": "It was measured again.",
    "replaced_by": "who.new",
}
NEW = {**GOOD, "id": "who.new", "as_written": "27 ms", "value": 0.027}


def test_a_withdrawn_figure_says_when_by_whom_why_and_what_stands_in_its_place(
    tmp_path: Path,
) -> None:
    old, new = published.load(write(tmp_path, {**GOOD, "withdrawn": GONE}, NEW))
    assert old.withdrawn == published.Withdrawn(**GONE)
    assert (old.state, old.replaced_by, old.marked) == (
        "withdrawn",
        "who.new",
        "17 ms (withdrawn)",
    )
    assert (new.state, new.replaced_by, new.marked) == ("", "", "27 ms")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"withdrawn": "yes"}, "must be a mapping of texts"),
        ({"withdrawn": {**GONE, "when": "2026"}}, "when must be a day"),
        ({"withdrawn": {**GONE, "why": ""}}, "missing ['why']"),
        ({"withdrawn": {**GONE, "colour": "red"}}, "unknown ['colour']"),
        ({"withdrawn": {**GONE, "source": "a page"}}, "source must be an https address"),
        ({"withdrawn": {**GONE, "replaced_by": "who.none"}}, "'who.none', which is no figure"),
        ({"superseded_by": "who.what"}, "who.what, which is superseded itself"),
        ({"superseded_by": "who.new", "as_written": "17 MiB", "unit": "bytes", "value": 17825792},
         "who.new, which is in s"),
        ({"withdrawn": GONE, "superseded_by": "who.new"}, "in `withdrawn`"),
    ],
)  # fmt: skip
def test_a_state_that_leads_nowhere_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(PublishedError) as caught:
        published.load(write(tmp_path, {**GOOD, **change}, NEW))
    assert message in str(caught.value)
    assert "who.what" in str(caught.value)


def test_a_withdrawn_figure_is_marked_wherever_it_stands(tmp_path: Path) -> None:
    old, _ = published.load(write(tmp_path, {**GOOD, "withdrawn": GONE}, NEW))
    html = figures.quoted(old, lambda path: path)
    assert re.search(r"<s>.*17 ms.*</s> <a class=\"mark withdrawn\"", html)
    assert 'href="published-starts.html#who.what"' in html
    row = dict(zip(COLUMNS, ChartRow("it", published=old).cells(), strict=True))
    assert row["state"] == "withdrawn"
    strip = Strip("row", None, published=[("Who", old)])
    line = ReferenceLine(old, f"Who: {old.marked}", "")
    drawing = StripPicture("id", "title", [strip], line).svg()
    assert drawing.count("17 ms (withdrawn)") >= 2


def test_every_withdrawn_and_superseded_figure_of_ours_stands_on_its_page(made: Made) -> None:
    pages = {
        name: (made.out / name).read_text(encoding="utf-8")
        for name in ("published.html", "published-starts.html")
    }
    exported = json.loads((made.out / "published.json").read_text(encoding="utf-8"))
    states = {one["id"]: one["state"] for one in exported["figures"]}
    gone = [one for one in published.load(PUBLISHED) if one.state]
    assert {one.id for one in gone if one.withdrawn} >= {"mitos.memory", "agentenv.prefault-early"}
    for one in gone:
        page = pages[published_page(one.topic)]
        assert states[one.id] == one.state
        assert f'<tr id="{one.id}" class="{one.state}">' in page
        assert f"#{one.replaced_by}" in page
        if one.withdrawn:
            assert str(Markup.escape(one.withdrawn.why)) in page
    assert (
        len((made.out / "published.csv").read_text(encoding="utf-8").splitlines())
        == len(states) + 1
    )


def test_the_clock_exhibit_stands_on_the_front_page_and_the_method_page(made: Made) -> None:
    by_id = {one.id: one for one in published.load(PUBLISHED)}
    for name in ("index.html", "method.html"):
        page = (made.out / name).read_text(encoding="utf-8")
        shown = page[page.index('id="clock-decides"') :]
        shown = shown[: shown.index("</section>")]
        for id in ("cubesandbox.lab.api-p50", "cubesandbox.lab.usable-p50"):
            assert by_id[id].as_written in shown, name
    api, usable = (by_id[f"cubesandbox.lab.{rung}-p50"] for rung in ("api", "usable"))
    assert api.value and usable.value and usable.value > 2 * api.value


def test_the_matrix_agrees_with_the_figures_that_count_it(made: Made, tmp_path: Path) -> None:
    figures_ = published.load(PUBLISHED)
    (matrix,) = matrices.load(PUBLISHED, figures_)
    rows = [verdict for rows in matrix.groups.values() for verdict in rows.values()]
    assert matrix.total + matrix.count("extension") == len(rows)
    assert f"{matrix.count('compatible')} of {matrix.total}" in (made.out / "e2b.html").read_text(
        encoding="utf-8"
    )
    source = PUBLISHED / "matrices" / "cubesandbox-e2b.yaml"
    (tmp_path / "matrices").mkdir()
    copy = tmp_path / "matrices" / "wrong.yaml"
    copy.write_text(
        source.read_text(encoding="utf-8").replace("pty.*: compatible", "pty.*: partial"),
        encoding="utf-8",
    )
    with pytest.raises(PublishedError, match=r"wrong\.yaml: counts: cubesandbox\.e2b-methods"):
        matrices.load(tmp_path, figures_)
    copy.write_text(
        source.read_text(encoding="utf-8").replace("pty.*: compatible", "pty.*: splendid"),
        encoding="utf-8",
    )
    with pytest.raises(PublishedError, match=r"pty\.\*: unknown verdict 'splendid'"):
        matrices.load(tmp_path, figures_)


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
    (tmp_path / "odd.yaml").write_text(text, encoding="utf-8")
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
