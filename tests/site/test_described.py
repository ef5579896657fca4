"""What a figure is of is told beside it, in plain text and in the unit of the figure it answers."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path

import pytest

from harness.claims import published
from harness.measure.record import Facts, Series
from harness.measure.statistics import Estimate
from harness.paths import PUBLISHED
from harness.site.data import corpus, described, figures, sentences
from harness.site.data.network import PolicyCost
from harness.site.data.record_summary import summarise_series
from tests.site import factory

_KNOWN = {one.id: one for one in published.load(PUBLISHED)}
_MIB = 2**20
_SENTENCE = re.compile(r"<p>.*?</p>", re.DOTALL)


@pytest.mark.parametrize(
    ("metric", "dimensions", "statistic", "text"),
    [
        ("reply", {"substrate": "qemu", "sharing": "merged"}, "count",
         "number of guests that replied (QEMU, equal pages merged)"),
        ("host-change", {"substrate": "bhyve", "sharing": "mapped"}, "p50",
         "median memory the host gives up (bhyve, all mapping one file)"),
        ("first-reply", {"substrate": "qemu", "tier": "full"}, "mean",
         "mean time until the first reply (QEMU, booted)"),
        ("rtt", {"path": "policy", "tool": "netperf", "statistic": "p99"}, "p50",
         "median of netperf's p99 round trip (bridge with policy)"),
        ("rtt", {"path": "policy"}, "p95", "p95 round trip (bridge with policy)"),
    ],
)  # fmt: skip
def test_a_figure_is_described_by_its_statistic_and_setup(
    metric: str, dimensions: Facts, statistic: str, text: str
) -> None:
    one = Series(metric, "s", "lower", dimensions, "closed", (), [1.0])
    assert described.figure(summarise_series(one, 0, factory.machine()), statistic) == text


def test_every_claims_table_names_the_statistic_of_each_figure(real: Path) -> None:
    """In the page, and so in the file of the table."""
    names = {*described.STATISTICS.values(), "p90", "p95", "p99"}
    seen = 0
    for path in [*(real / "tables").glob("claims.*.csv"), *(real / "tables").glob("index.*.csv")]:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for column in ("measured here", "measured on Linux"):
                    text = row.get(column, "not measured")
                    if "verdict" in row and "not measured" not in text:
                        assert names & set(" ".join(row.values()).replace(",", " ").split()), (
                            path.name,
                            text,
                        )
                        seen += 1
    assert seen > 30


@pytest.mark.parametrize(
    ("written", "value", "unit", "shown"),
    [
        ("9 117 MiB", 9626 * _MIB, "bytes", "9\u202f600 MiB"),
        ("3 906 ms", 2.3, "s", "2\u202f300 ms"),
        ("17 ms", 0.00031, "s", "0.31 ms"),
        # Where the claim's unit would hide the digits, the figure keeps a unit of its own.
        ("2 s", 0.00031, "s", "0.31 ms"),
        ("1 000", 2.3, "s", "2.3 s"),
    ],
)
def test_ours_has_the_unit_of_the_figure_it_stands_beside(
    written: str, value: float, unit: str, shown: str
) -> None:
    like = dataclasses.replace(_KNOWN["coppice.density.1000.total"], as_written=written,
                               unit="1" if written == "1 000" else unit)  # fmt: skip
    entry = corpus.entry_of(factory.cold_start("full", n=3))
    html = figures.derived(
        entry, entry.summary.series[0], Estimate(value, None, None), unit, str, like=like
    )
    assert f">{shown}</a></data>" in html


def test_the_first_screen_has_one_unit_on_both_sides(real: Path) -> None:
    text = (real / "index.html").read_text(encoding="utf-8")
    row = re.search(r'<tr id="coppice-density">.*?</tr>', text, re.DOTALL)
    assert row and row[0].count(" MiB</a></data>") == 2 and "GiB</a></data>" not in row[0]


def test_no_term_of_the_harness_stands_alone_on_the_first_screen(real: Path) -> None:
    text = (real / "index.html").read_text(encoding="utf-8")
    table = re.search(r'<table class="claims cards headlines">.*?</table>', text, re.DOTALL)
    assert table and "guests that replied" in table[0]
    for term in ("host-change", "first-reply", "prewarm"):
        assert not re.search(rf">[^<]*{term}[^<]*<", table[0]), term
    ways = set(re.findall(r'<a href="([^"]+)">\d of \d ways</a>', table[0]))
    assert ways == {"claims.html#ways"} and len(re.findall(r"of \d ways", table[0])) == 2
    assert 'id="ways"' in (real / "claims.html").read_text(encoding="utf-8")


def test_marks_stand_at_the_end_of_a_sentence(real: Path) -> None:
    """Nothing but brackets, a period or another mark follows them."""
    seen = 0
    for name in ("density", "network", "compare", "method", "coldstart", "e2b"):
        for page in real.glob(f"{name}.html"):
            for found in _SENTENCE.findall(page.read_text(encoding="utf-8")):
                for after in re.findall(r'<a class="since"[^>]*>[^<]*</a>(.{0,9})', found):
                    assert after.startswith(")</span>"), (name, found)
                    seen += 1
    assert seen > 3
    entry = corpus.entry_of(factory.cold_start("full", n=9))
    inline = sentences.inline(entry, entry.summary.series[0], "p50", str)
    assert "conditions" not in inline and "emulated" in sentences.aside(
        entry, entry.summary.series[0], str
    )


@pytest.mark.parametrize(
    ("low", "high", "passes", "measurable"),
    [(-1.0, 2.0, (), False), (0.5, 2.0, (), True), (None, None, (-1.0, 3.0), False),
     (None, None, (0.5, 3.0), True), (None, None, (), False)],
)  # fmt: skip
def test_a_difference_whose_interval_has_zero_is_none(
    low: float | None, high: float | None, passes: tuple[float, ...], measurable: bool
) -> None:
    entry = corpus.entry_of(factory.cold_start("full", n=1))
    several = [Estimate(one, None, None) for one in passes]
    added = Estimate(1.0, low, high)
    cost = PolicyCost(entry, entry.record.series[0], 1, added, several, None)
    assert cost.measurable is measurable


def test_the_network_page_does_not_call_no_difference_a_cost(real: Path) -> None:
    text = (real / "network.html").read_text(encoding="utf-8")
    sentences_of = re.findall(r"<p>With the ends on.*?</p>", text, re.DOTALL)
    assert sentences_of
    for one in sentences_of:
        added = re.search(r'<span class="interval">([^<]*) to ', one)
        below = added is not None and added[1].startswith("\u2212")
        assert below == ("no measurable difference" in one), one
