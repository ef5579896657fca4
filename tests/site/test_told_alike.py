"""The same fact is told alike wherever it stands: accelerators, partial methods, judged claims."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from harness.claims import published
from harness.claims.verdict import JUDGED
from harness.measure.conditions import Conditions, derived
from harness.measure.record import Facts, Series
from harness.paths import PUBLISHED
from harness.site.builder.build import build
from harness.site.data import machines
from tests.site import factory


def conditions(dimensions: Facts, accelerator: str | None) -> Conditions:
    one = Series("reply", "s", "lower", dimensions, "closed", (), [1.0])
    return derived(one, factory.machine(accelerator=accelerator))


@pytest.mark.parametrize(
    ("dimensions", "accelerator", "text"),
    [
        ({"sdk": "http"}, None, "accelerator not recorded"),
        ({"path": "policy"}, None, ""),
        ({"substrate": "noop"}, None, ""),
        ({"substrate": "qemu"}, "tcg", "guests emulated (TCG)"),
    ],
)
def test_how_guests_ran_is_told_only_where_there_are_guests(
    dimensions: Facts, accelerator: str | None, text: str
) -> None:
    assert machines.guests(conditions(dimensions, accelerator)) == text


def test_no_claim_says_that_its_guests_had_no_accelerator(real: Path) -> None:
    pages = {one.stem: one.read_text(encoding="utf-8") for one in (real / "claims").glob("*.html")}
    assert not [name for name, text in pages.items() if "no accelerator" in text]
    assert sum("accelerator not recorded. <code>" in text for text in pages.values()) > 0
    assert sum("guests emulated (TCG). <code>" in text for text in pages.values()) > 0


def test_methods_that_are_partial_are_not_counted_as_working(real: Path) -> None:
    known = {one.id: one for one in published.load(PUBLISHED)}
    works, either = (known[f"cubesandbox.e2b-methods{end}"] for end in ("", "-partial"))
    assert works.value and works.partial and works.value + works.partial == either.value
    for page in ("index.html", "claims.html"):
        text = (real / page).read_text(encoding="utf-8")
        assert f"{works.as_written}</a></data>, {works.partial} partial" in text, page
        assert either.as_written not in text, page


def tally(text: str) -> str:
    found = re.search(r'<p class="tally".*?</p>', text, re.DOTALL)
    assert found
    return " ".join(re.sub(r"<[^>]*>", " ", found[0]).split())


def test_judged_are_the_claims_with_a_verdict_on_the_merits(real: Path) -> None:
    with (real / "claims.csv").open(newline="", encoding="utf-8") as file:
        rows = [one for one in csv.DictReader(file) if one["decides"] == "yes"]
    text = (real / "index.html").read_text(encoding="utf-8")
    machine = re.search(r'Measured on <strong><a href="machines/([^"]+)\.html"', text)
    assert machine
    verdicts = [one["verdict"] for one in rows if one["machine"] == machine[1]]
    shown = tally(text)
    assert f" {sum(one in JUDGED for one in verdicts)} judged: " in shown
    assert "inconclusive" not in shown.partition("not judged:")[0]


def test_without_records_nothing_is_announced_that_does_not_follow(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    build(tmp_path / "results", tmp_path / "out")
    shown = tally((tmp_path / "out/index.html").read_text(encoding="utf-8"))
    assert re.fullmatch(
        r"\d+ published claims , 0 judged; not judged: \d+ not measured here", shown
    )
