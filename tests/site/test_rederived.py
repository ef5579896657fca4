"""Every figure on every page, worked out again from the raw record by code of its own."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote

import yaml

from harness.paths import PUBLISHED
from tests.site.conftest import Made, over_time

_SIZE = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}


class Figures(HTMLParser):
    """Gathers (value, address, text, interval) of every data element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[list[str]] = []
        self._in, self._interval = False, False
        self._cell = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        if tag == "td":
            self._cell = facts.get("id") or ""
        if tag == "data":
            # A figure of a run's own page leads nowhere: its cell says what it is.
            self.found.append([str(facts["value"]), f"#{self._cell}", "", ""])
            self._in = True
        elif tag == "a" and self._in:
            self.found[-1][1] = str(facts["href"])
        elif facts.get("class") == "interval":
            self._interval = True

    def handle_endtag(self, tag: str) -> None:
        self._in = self._in and tag != "data"
        self._interval = self._interval and tag != "span"

    def handle_data(self, data: str) -> None:
        if self._in:
            self.found[-1][2] += data
        elif self._interval:
            self.found[-1][3] += data


def expected(data: dict[str, Any], anchor: str) -> float:
    """What the record says at an anchor such as /series/2.p95."""
    ordered = sorted(samples(data, anchor))
    statistic = anchor.partition(".")[2]
    if statistic == "min":
        return float(ordered[0])
    if statistic == "max":
        return float(ordered[-1])
    percent = int(statistic[1:])
    # The smallest sample that at least so many percent do not exceed.
    for rank, sample in enumerate(ordered, 1):
        if rank * 100 >= percent * len(ordered):
            return float(sample)
    raise AssertionError(anchor)


def test_every_figure_of_a_record_is_what_the_record_gives(made: Made, repeated: Made) -> None:
    checked = means = 0
    for path in [*made.pages(), *over_time(repeated)]:
        for value, address, text, interval in Figures(path.read_text(encoding="utf-8")).found:
            target, _, anchor = unquote(address).partition("#")
            page = (path.parent / target).resolve() if target else path
            if page.parent.parent.name != "runs":
                continue
            data = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
            if anchor == "clock":
                assert float(value) * 1e9 in (
                    data["clock"]["resolution_ns"],
                    data["clock"]["overhead_ns"],
                ) or math.isclose(float(value) * 1e9, data["clock"]["overhead_ns"])
                continue
            if anchor == "repeat":
                begun, ended = (
                    datetime.strptime(data[key].partition(".")[0].rstrip("Z"), "%Y-%m-%dT%H:%M:%S")
                    for key in ("started", "finished")
                )
                assert abs(float(value) - (ended - begun).total_seconds()) <= 1
                continue
            if "." not in anchor:
                series = at(data, anchor)
                if "." in value:
                    # The only statistic without a place of its own on a run's page.
                    mean = math.fsum(series["samples"]) / len(series["samples"])
                    assert math.isclose(float(value), mean)
                    means += 1
                    continue
                assert int(value) in (len(series["samples"]), len(series["failures"]))
                assert text.replace("\u202f", "") == value
                continue
            exact = expected(data, anchor)
            assert float(value) == exact
            number, unit = text.replace("\u202f", "").split(" ")
            digits = len(number.replace(".", "").lstrip("0"))
            assert 1 <= digits <= 4
            step = 10.0 ** -len(number.partition(".")[2]) * _SIZE[unit]
            if "." not in number:
                step = 10 ** (len(number) - len(number.rstrip("0"))) * _SIZE[unit]
            assert abs(float(number) * _SIZE[unit] - exact) <= step / 2 * (1 + 1e-9), (path, text)
            if interval:
                low, high = (
                    float(part) * _SIZE[unit] for part in interval.replace("\u202f", "").split("–")
                )
                assert low <= exact * (1 + 1e-9) and exact <= high * (1 + 1e-9)
                covered = sum(low <= one <= high for one in samples(data, anchor))
                assert covered < len(samples(data, anchor))
            checked += 1
    assert checked > 600 and means > 3


def at(data: dict[str, Any], anchor: str) -> dict[str, Any]:
    """The series that an anchor points at, as a JSON pointer does."""
    empty, key, number = anchor.partition(".")[0].split("/")
    assert (empty, key) == ("", "series")
    return dict(data["series"][int(number)])


def samples(data: dict[str, Any], anchor: str) -> list[float]:
    return list(at(data, anchor)["samples"])


def test_headline_figures_are_of_the_right_series(made: Made) -> None:
    text = (made.out / "index.html").read_text(encoding="utf-8")
    row = re.search(r'<tr id="coppice-cold-start">(.*?)</tr>', text, re.DOTALL)
    assert row, "the page has no row for this claim"
    published, (_, address, _, _), *_ = Figures(row[1]).found
    assert published[:2] == [
        "0.017",
        "published-starts.html#coppice.bhyve-durable-prewarm-pool.cc1-p50",
    ]
    target, _, anchor = address.partition("#")
    data = json.loads((made.out / target).with_suffix(".json").read_text(encoding="utf-8"))
    assert anchor.endswith(".p50")
    series = at(data, anchor)
    assert series["metric"] == "first-reply"
    dimensions = series["dimensions"]
    assert (dimensions["tier"], dimensions["concurrency"]) == ("durable-prewarm-pool", 1)
    assert (dimensions["substrate"], data["profile"]) == ("qemu", "full")
    # No fleet is among these records, and the rows of fleets say so.
    fleet = re.search(r'<tr id="coppice-thousand">(.*?)</tr>', text, re.DOTALL)
    assert fleet and "not measured on this host" in fleet[1]


def test_the_chart_draws_every_sample(made: Made) -> None:
    text = (made.out / "index.html").read_text(encoding="utf-8")
    paths = re.findall(r'<path class="samples" d="([^"]*)"', text)
    # Each is drawn from the one before; the other is the key beside the chart.
    drawn = sorted(path.count("h0") for path in paths if "m" in path)
    assert drawn == [30, 100, 400, 400, 400]
    assert text.count('class="other"') >= 4
    for published in ("3.906", "0.271", "0.017", "0.01", "0.06"):
        assert f'data-value="{published}"' in text


def test_every_published_figure_is_shown_as_its_source_writes_it(made: Made) -> None:
    shown = {
        address: (value, text)
        for page in ("published.html", "published-starts.html")
        for value, address, text, _ in Figures((made.out / page).read_text(encoding="utf-8")).found
    }
    count = 0
    for path in (PUBLISHED).glob("*.yaml"):
        for one in yaml.safe_load(path.read_text(encoding="utf-8"))["figures"]:
            if "value" in one:
                page = "published-starts" if one["topic"] == "cold-start" else "published"
                value, text = shown[f"{page}.html#{one['id']}"]
                assert (float(value), text) == (one["value"], one["as_written"])
                count += 1
    assert count > 200


class Loose(HTMLParser):
    """Text of a page that is in no data element, interval, chart, title, code or named line."""

    _VOID = frozenset(("meta", "link", "br", "path", "line", "rect", "circle", "img"))
    _TAGS = frozenset(("data", "svg", "title", "code"))
    _CLASSES = frozenset(("interval", "machine-line", "absent"))

    def __init__(self, html: str) -> None:
        super().__init__()
        self.stack: list[bool] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.text += " "
        if tag not in self._VOID:
            named = set((dict(attrs).get("class") or "").split()) & self._CLASSES
            self.stack.append(tag in self._TAGS or bool(named))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._VOID:
            self.stack.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element without content."""

    def handle_data(self, data: str) -> None:
        if not any(self.stack):
            self.text += data


def test_no_figure_on_the_front_page_stands_outside_its_form(made: Made) -> None:
    loose = Loose((made.out / "index.html").read_text(encoding="utf-8")).text
    found = set(re.findall(r"[\d.–]+\s?(?:[nµm]?s\b|[KMG]i?B\b|%|Gbit/s)", loose))
    # The confidence, which the templates take from the statistics.
    assert found == {"95 %"}
