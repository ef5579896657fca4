"""Where published figures stand beside ours: one mapping, which agrees with the claims."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness import paths
from harness.claims import beside, claims, published
from harness.claims.beside import Placement
from harness.measure.record import Facts

ROOT = Path(__file__).parents[2]
FIGURES = published.load(ROOT / "results/published")
PLACED = beside.load(FIGURES)


def test_every_figure_of_the_mapping_is_published() -> None:
    data = beside.data()
    assert len(PLACED.series) == len(data["series"]) > 20
    assert PLACED.lines.keys() == data["lines"].keys()
    for row, cells in data["kinds"].items():
        for kind, ids in cells.items():
            assert [one.id for one in PLACED.kind(row, kind)] == ids
    ids = [one["figure"] for one in data["series"]]
    assert len(set(ids)) == len(ids), "a figure stands in one place"


def test_what_is_not_published_is_not_placed() -> None:
    few = [one for one in FIGURES if one.id == "coppice.bhyve-full.cc1"]
    assert [one.figure.id for one in beside.load(few).series] == ["coppice.bhyve-full.cc1"]
    assert beside.load(()).find("coppice.bhyve-full.cc1") is None
    assert beside.load(()).kind("start", "bhyve") == []


@pytest.mark.parametrize("claim", claims.load(FIGURES), ids=lambda one: one.id)
def test_a_claims_figure_stands_beside_what_answers_the_claim(claim: claims.Claim) -> None:
    placed = PLACED.find(claim.figure.id)
    if not placed:
        return
    fitting = [
        answer
        for answer in claim.answers
        if (answer.rig, answer.metric) == (placed.rig, placed.metric) and placed.fits(answer.where)
    ]
    assert fitting, placed
    # Every dimension that an answer states, and a figure too, is the same.
    stated = [answer for answer in fitting if placed.where.keys() <= answer.where.keys()]
    assert stated or claim.configuration.keys() <= placed.where.keys(), placed


def test_the_figure_from_disk_stands_beside_the_vmm_that_the_request_starts() -> None:
    placed = PLACED.find("coppice.bhyve-durable-pool.cc1")
    assert placed
    of: Facts = {"substrate": "qemu", "tier": "durable-pool", "concurrency": 1}
    assert placed.fits({**of, "vmm": "spawned"})
    assert not placed.fits({**of, "vmm": "waits"})
    # bhyve has no choice: every request starts one.
    assert placed.fits({**of, "substrate": "bhyve"})
    (claim,) = [one for one in claims.load(FIGURES) if one.figure.id == placed.figure.id]
    assert claim.configuration["vmm"] == "spawned"


def test_figures_are_asked_for_by_series() -> None:
    found = PLACED.of("density", "host-change", {"n": 50})
    assert [one.figure.id for one in found] == ["coppice.density.50.total"]
    each = PLACED.of("density", "host-change", {"n": 1000}, per="bring-up")
    assert {one.figure.publisher for one in each} == {
        "CubeSandbox",
        "The original Coppice (FreeBSD)",
    }
    assert PLACED.of("density", "host-change", {"n": 50, "sharing": "forked"}) == []
    assert isinstance(PLACED.of("policy-churn", "rule-add", {"n": 2000})[0], Placement)


def test_no_chart_or_page_names_a_published_figure_of_its_own() -> None:
    """Exhibits show published figures side by side, beside no measured series."""
    known = {one.id for one in FIGURES}
    prefixes = "|".join({re.escape(id.split(".")[0]) for id in known})
    named = re.compile(rf"[\"'](?:{prefixes})\.[\w.{{}}-]+[\"']")
    files = [*(paths.PACKAGE / "site").rglob("*.py")]
    assert len(files) > 50
    found = {
        path.name: several
        for path in files
        if path.name != "exhibits.py"
        and (
            several := [
                one
                for one in named.findall(path.read_text(encoding="utf-8"))
                if one.strip("\"'") in known or "{" in one
            ]
        )
    }
    assert found == {}
