"""The page of storms: capacity with its knee, storms, workloads, generators, the ladder."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import paths
from harness.claims import claims, published
from harness.load import arrivals
from harness.measure import record
from harness.measure.record import Facts, Validity
from harness.site.builder.build import build
from harness.site.data import api_ladder, evidence, storms
from harness.site.data.corpus import Corpus, entry_of, load
from tests.site import storm_factory as made_up
from tests.site.conftest import Made
from tests.site.factory import HOST, of_rig, service, timing
from tests.site.test_real import LIMIT
from tests.site.test_services import text

OURS: Facts = {"substrate": "qemu", "pool": 64}
QEMU: Facts = {
    "substrate": "qemu",
    "tier": "durable-prewarm-pool",
    "accelerator": "tcg",
    "pool": 16,
}
API: Facts = {"sdk": "http", "concurrency": 1, "operation": "create"}
SUSPECT = Validity("suspect", ("generator saturated: (test)",))


def stormy(results: Path) -> None:
    """Sweeps and storms of our gateway, of QEMU and of a service, and the rungs over an API."""
    burst = arrivals.workload("burst", 1, kinds=["bash", "sh"])
    steady = arrivals.constant(20, 60, kinds=["bash"])
    far: Facts = {"system": "cubesandbox"}
    levels = {"create-headers": 0.05, "create-body": 0.06, "usable": 2.2, "first-run-code": 2.9}
    near = [timing(name, level / 30, 80, substrate="qemu", **API) for name, level in levels.items()]
    theirs = [timing(name, level, 80, **far, **API) for name, level in levels.items()]
    for one in (
        made_up.sweep(OURS),
        made_up.sweep(QEMU, "storm", day=2, validity=SUSPECT),
        made_up.sweep(far, day=3, endpoint=service()),
        made_up.storm(burst, OURS, day=4),
        made_up.storm(steady, OURS, day=5, held=True, dead=2, refused=3),
        made_up.storm(burst, far, day=6, endpoint=service(), refused=7),
        of_rig("e2b-latency", *near, day=7),
        of_rig("e2b-latency", *theirs, day=8, endpoint=service()),
    ):
        record.write(one, results)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    directory = tmp_path_factory.mktemp("storms")
    stormy(directory / "results")
    build(directory / "results", directory / "out")
    return Made(directory / "results", directory / "out")


@pytest.fixture(scope="module")
def known(made: Made) -> Corpus:
    return load(made.results, paths.PUBLISHED)


def test_each_subject_has_its_own_sweep_and_storms(known: Corpus) -> None:
    found = {(one.rig, one.name): one for one in storms.subjects(known)}
    assert list(found) == [
        ("e2b-storm", "gateway over qemu"),
        ("e2b-storm", "test cluster 1 (CubeSandbox, through its API)"),
        ("storm", "qemu"),
    ]
    ours = found["e2b-storm", "gateway over qemu"]
    rates = [step.rate for step in ours.sweep]
    assert len(rates) > 3 and rates == sorted(set(rates))
    assert ours.capacity and min(rates) < ours.capacity[1].samples[0] < max(rates)
    assert [one.name for one in ours.storms] == ["constant, 60 at 20/s", "burst, 500 at 50/s"]
    assert [one["program"] for one in ours.storms[1].programs] == ["bash", "sh"]


def test_the_page_shows_capacity_refusals_the_second_check_and_the_generator(made: Made) -> None:
    page = (made.out / "storms.html").read_text(encoding="utf-8")
    shown = text(made, "storms.html")
    assert page.count('<line x1="') > 10 and page.count('class="knee"') == 2 * 2 * 3
    for part in (
        "constant, 60 at 20/s",
        "55 of 57",
        "sh, not rehearsed",
        "suspect",
        "template_storm 300 at 30 a second",
        "coppice run e2b-storm --workload mixed_spec",
        "northflank by computesdk benchmarks",
    ):
        assert part in shown, part
    whose = shown[shown.index("a service, over its API storm usable") :]
    assert " 7 0 none was held" in whose
    assert "rehearsed" not in whose[: whose.index("CubeSandbox")], "of a service that is not known"
    assert len(page.encode()) < LIMIT


def test_the_ladder_shows_what_the_first_clock_leaves_out(made: Made, known: Corpus) -> None:
    rows = api_ladder.rows(known)
    assert [one.name for one in rows] == [
        "gateway over qemu",
        service().name + " (CubeSandbox, through its API)",
    ]
    far = rows[1]
    assert list(far.rungs) == list(api_ladder.RUNGS)
    shown = text(made, "storms.html")
    assert "CubeSandbox, one run published 382.0 ms not published 904.0 ms" in shown
    svg = (made.out / "charts/api-ladder.svg").read_text(encoding="utf-8")
    assert svg.count('class="other"') == sum(len(one) for one in known.beside.ladder.values())


def test_an_older_record_names_the_usable_rung_otherwise() -> None:
    one = of_rig("e2b-latency", timing("first-command", 0.02, 30, substrate="qemu", **API))
    (row,) = api_ladder.rows(Corpus([entry_of(one)], (), ()))
    assert list(row.rungs) == ["usable"]


def test_storms_of_a_service_are_about_that_service_alone(known: Corpus) -> None:
    figures = published.load(paths.PUBLISHED)
    by_id = {one.id: one for one in claims.load(figures)}
    decided = evidence.deciding(evidence.judged(known, by_id["cubesandbox-rate"], HOST))
    assert decided and decided.found and decided.found.system == "cubesandbox"
    assert decided.finding.verdict == "not comparable"
    alive = evidence.deciding(evidence.judged(known, by_id["northflank-alive"], HOST))
    assert alive and alive.found and alive.found.system == "gateway"


def test_without_a_storm_the_page_says_how_to_make_one(tmp_path: Path) -> None:
    results = tmp_path / "results"
    record.write(
        of_rig("e2b-latency", timing("usable", 0.02, 30, substrate="qemu", **API)), results
    )
    build(results, tmp_path / "out")
    shown = text(Made(results, tmp_path / "out"), "storms.html")
    assert shown.count("not measured on this host") >= 4
    assert "mise run bench:e2b-capacity" in shown
