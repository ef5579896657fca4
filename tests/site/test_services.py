"""A service under test has pages of its own, and none of its figures is the client machine's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from harness import paths
from harness.claims import claims, published
from harness.measure import record
from harness.measure.record import Facts, Failure, RunRecord, Series
from harness.site.builder.build import build
from harness.site.data import evidence, newest, services, side_by_side
from harness.site.data.corpus import Corpus, load
from harness.site.data.tracks import tracks
from tests.site.conftest import Made
from tests.site.factory import HOST, of_rig, service, timing

COMMON: Facts = {"sdk": "http", "concurrency": 1}
OURS: Facts = {"substrate": "qemu"}
THEIRS: Facts = {"system": "cubesandbox"}
FAR = 0.77
"""The level of every figure of the service, which no page of the machine may show."""


def ours(day: int) -> RunRecord:
    return of_rig("e2b-latency", timing("create-headers", 0.002, 600, **OURS, **COMMON), day=day)


def far(day: int, number: int = 1, level: float = FAR) -> RunRecord:
    shed = (Failure(2, "429, try later", "refused"), Failure(5, "500: it broke"))
    base = timing("create-headers", level, 600, **THEIRS, **COMMON)
    headers = Series(base.metric, "s", "lower", base.dimensions, "closed", (), base.samples, shed)
    trips = [timing("round-trip", 0.0123, 30, **THEIRS, of=of) for of in ("tcp-connect", "request")]
    return of_rig("e2b-latency", headers, *trips, day=day, endpoint=service(number))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Runs of our gateway, and later ones of two services of one system, from one machine."""
    directory = tmp_path_factory.mktemp("services")
    for day in (1, 2):
        record.write(ours(day), directory / "results")
    for day, number in ((3, 1), (4, 1), (5, 2), (6, 2)):
        record.write(far(day, number, FAR * number), directory / "results")
    build(directory / "results", directory / "out")
    return Made(directory / "results", directory / "out")


@pytest.fixture(scope="module")
def known(mixed: Made) -> Corpus:
    return load(mixed.results, paths.PUBLISHED)


def text(made: Made, path: str) -> str:
    page = (made.out / path).read_text(encoding="utf-8")
    inline = re.sub(r"</?(a|code|data|em|span|strong)\b[^>]*>", "", page)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", inline))


def run_page(made: Made, one: RunRecord) -> str:
    return text(made, f"runs/{HOST}/{one.run_id.lower()}-{one.rig.id}.html")


def test_the_page_of_a_run_shows_the_far_end_and_what_is_not_known(mixed: Made) -> None:
    shown = run_page(mixed, far(3))
    for part in (
        "test cluster 1 (CubeSandbox, through its API), from",
        "https://cube-1.test.example",
        "tpl-test told by its user",
        "test-server/1 answered",
        "not known its machine, what else ran there",
        "limit: at once 50",
        "POST /v2/sandboxes 405",
        "The client’s machine name",
        "1 refused, 1 failed",
        "refused: 429, try later",
    ):
        assert part in shown, part
    trips = r"Round trip of the network to it, median: tcp-connect ([\d.]+ ms) \(.*?\), request "
    trip = re.search(trips + r"[\d.]+ ms", shown)
    assert trip and trip[1].startswith("12")
    assert "taken off none" in shown


def test_without_a_round_trip_the_page_says_so(tmp_path: Path) -> None:
    one = of_rig("e2b-latency", timing("create-headers", FAR, 9, **THEIRS), endpoint=service())
    record.write(one, tmp_path / "results")
    build(tmp_path / "results", tmp_path / "out")
    assert "The round trip to it was not measured" in run_page(
        Made(tmp_path / "results", tmp_path / "out"), one
    )


def test_no_page_of_the_machine_has_a_figure_of_the_service(mixed: Made) -> None:
    for path in ("numbers.html", f"machines/{HOST}.html", "e2b.html", "index.html"):
        shown = (mixed.out / path).read_text(encoding="utf-8")
        values = [float(one) for one in re.findall(r'<data value="([^"]+)" data-unit="s">', shown)]
        assert path in ("index.html", f"machines/{HOST}.html") or values, path
        assert all(value < FAR / 2 for value in values), path
    assert "test cluster 1" in text(mixed, f"machines/{HOST}.html")
    assert "All records: 2" in text(mixed, f"machines/{HOST}.html")


def test_a_service_has_a_page_with_its_figures_and_runs(mixed: Made, known: Corpus) -> None:
    pages = [services.page(one.facts) for one in services.found(known)]
    assert len(set(pages)) == 2
    for path, number in zip(pages, (2, 1), strict=True):
        shown = text(mixed, path)
        assert f"https://cube-{number}.test.example" in shown and "Its runs: 2" in shown
        assert "Round trip of the network to it" in shown
        assert "contradicted" in shown and "advertised cold start" in shown
    listed = text(mixed, "services.html")
    assert "test cluster 1" in listed and "test cluster 2" in listed


def test_a_later_record_of_a_service_hides_none_of_ours(known: Corpus) -> None:
    (entry,) = {entry.page: entry for entry in known.of_rig("e2b-latency", HOST)[-1:]}.values()
    assert entry.summary.endpoint is None
    assert {kind.metric for kind in known.series_of("e2b-latency", HOST, "create-headers")} == {
        "create-headers"
    }
    several = [one for _, _, one in known.newest("e2b-latency", HOST, "create-headers")]
    assert [one.dimensions["substrate"] for one in several] == ["qemu"]
    assert side_by_side.tables(known) == {}
    assert set(known.superseded) == {one.run_id for one in (ours(1), far(3, 1), far(5, 2))}


def test_services_of_one_system_are_not_one_history(known: Corpus) -> None:
    found = tracks(known, HOST)
    assert len(found) == 7 and len({one.anchor for one in found}) == 7
    for one in found:
        kinds = {point.series.kind.endpoint for point in one.points}
        assert len(kinds) == 1 and len(one.points) == 2


def test_each_service_has_its_own_newest_figures(known: Corpus) -> None:
    for one, level in zip(services.found(known), (2 * FAR, FAR), strict=True):
        found = newest.of_endpoint(known, one.identity)["e2b-latency"]
        (headers,) = [series for _, series in found if series.metric == "create-headers"]
        assert headers.value("p50") == pytest.approx(level, rel=0.1)


def test_the_claims_own_system_decides_and_names_the_service(mixed: Made, known: Corpus) -> None:
    figures = published.load(paths.PUBLISHED)
    claim = next(one for one in claims.load(figures) if one.id == "cubesandbox-cold-start")
    decided = evidence.deciding(evidence.judged(known, claim, HOST))
    assert decided and decided.finding.verdict == "contradicted"
    shown = text(mixed, f"claims/{claim.id}.html")
    assert "test cluster 2 (CubeSandbox, through its API), from" in shown
    assert "whose machine is not known" in shown


def test_the_index_and_the_claims_file_name_the_service(mixed: Made) -> None:
    listed = json.loads((mixed.out / "index.json").read_text(encoding="utf-8"))["records"]
    assert [one["endpoint"] is not None for one in listed] == [False] * 2 + [True] * 4
    rows = (mixed.out / "claims.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].endswith(",endpoint")
    assert any(row.endswith(service(2).identity + '"') for row in rows)
