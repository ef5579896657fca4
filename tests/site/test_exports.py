"""What the site says to machines: valid in their formats, and true to the records."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import fastjsonschema
import pytest

from harness.cli import main
from harness.measure import record
from tests.site import factory
from tests.site.conftest import Made

ATOM = "{http://www.w3.org/2005/Atom}"
MAP = "{http://www.sitemaps.org/schemas/sitemap/0.9}"


def read(made: Made, name: str) -> dict[str, object]:
    found = json.loads((made.out / name).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_the_index_leads_to_every_record_and_its_digest_is_the_files(made: Made) -> None:
    found = json.loads((made.out / "index.json").read_text(encoding="utf-8"))
    assert len(found["records"]) == 13 and len(found["left_out"]) == 2
    for one in found["records"]:
        content = (made.out / one["record"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == one["sha256"]
        assert (made.out / one["page"]).is_file()
    for name in found["files"].values():
        assert (made.out / name).is_file()


def test_claims_as_csv_say_what_the_pages_say(made: Made) -> None:
    rows = list(csv.DictReader((made.out / "claims.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) > 40 and {row["machine"] for row in rows} == {factory.HOST}
    by = {(row["claim"], row["metric"], row["record"]): row for row in rows if row["ours"]}
    assert by
    for (claim, _, path), row in by.items():
        assert row["verdict"] in (made.out / f"claims/{claim}.html").read_text(encoding="utf-8")
        assert (made.out / path).is_file()
    assert all(row["verdict"] == "not comparable" for row in rows if row["comparable"] == "no"
               and row["ours"])  # fmt: skip


def test_in_the_csv_only_what_was_measured_decides(made: Made) -> None:
    rows = list(csv.DictReader((made.out / "claims.csv").read_text(encoding="utf-8").splitlines()))
    missing = [row for row in rows if row["verdict"] == "not measured here"]
    assert missing and {row["decides"] for row in missing} == {"no"}
    by: dict[str, list[str]] = {}
    for row in rows:
        if row not in missing:
            by.setdefault(row["claim"], []).append(row["decides"])
    assert by and all(several.count("yes") == 1 for several in by.values())


def test_the_crate_the_statement_and_the_dataset(made: Made) -> None:
    graph = json.loads((made.out / "ro-crate-metadata.json").read_text(encoding="utf-8"))["@graph"]
    by = {one["@id"]: one for one in graph}
    assert len(by) == len(graph)
    assert by["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    actions = [one for one in graph if one["@type"] == "CreateAction"]
    assert len(actions) == 13
    for one in actions:
        (result,) = one["result"]
        assert by[result["@id"]]["@type"] == "File" and (made.out / result["@id"]).is_file()
        assert one["instrument"]["@id"] in by and one["object"][0]["@id"] in by
    statement = json.loads((made.out / "statement.intoto.json").read_text(encoding="utf-8"))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicate"]["result"] == "WARNED"
    for one in statement["subject"]:
        content = (made.out / one["name"]).read_bytes()
        assert one["digest"]["sha256"] == hashlib.sha256(content).hexdigest()
    dataset = json.loads((made.out / "dataset.jsonld").read_text(encoding="utf-8"))
    assert dataset["@type"] == "Dataset" and len(dataset["variableMeasured"]) == 5
    (front,) = embedded(made.out / "index.html")
    assert front == dataset


def embedded(page: Path) -> list[dict[str, Any]]:
    found = re.findall(
        r'<script type="application/ld\+json">(.*?)</script>', page.read_text(encoding="utf-8")
    )
    return [json.loads(one) for one in found]


def test_each_run_is_a_dataset_whose_files_are_there(made: Made) -> None:
    index = json.loads((made.out / "index.json").read_text(encoding="utf-8"))
    schema = json.loads((made.out / index["files"]["schema"]).read_text(encoding="utf-8"))
    for one in index["records"]:
        page = made.out / one["page"]
        (data,) = embedded(page)
        record = json.loads((made.out / one["record"]).read_text(encoding="utf-8"))
        fastjsonschema.validate(schema, record)
        assert 'href="../../schema/run-1.json"' in page.read_text(encoding="utf-8")
        assert data["@type"] == "Dataset" and data["identifier"] == record["run_id"]
        names = {name["name"]: name["unitText"] for name in data["variableMeasured"]}
        assert names == {series["metric"]: series["unit"] for series in record["series"]}
        assert all((page.parent / file["contentUrl"]).is_file() for file in data["distribution"])
        assert (page.parent / data["isPartOf"]["@id"]).resolve() == made.out / "dataset.jsonld"


def test_the_feed_and_the_sitemap(made: Made) -> None:
    feed = ElementTree.parse(made.out / "feed.xml").getroot()
    entries = feed.findall(f"{ATOM}entry")
    assert len(entries) == 13
    dates = [one.findtext(f"{ATOM}updated") or "" for one in entries]
    assert dates == sorted(dates, reverse=True)
    assert len({one.findtext(f"{ATOM}id") for one in entries}) == 13
    pages = {one.text for one in ElementTree.parse(made.out / "sitemap.xml").iter(f"{MAP}loc")}
    assert pages == {
        f"http://127.0.0.1:8000/{path.relative_to(made.out).as_posix()}"
        for path in made.pages()
        if path.name != "404.html"
    }


def test_every_chart_has_its_files_and_they_agree(made: Made) -> None:
    charts = sorted(made.out.glob("charts/*.svg")) + sorted(made.out.glob("claims/*.svg"))
    assert len(charts) > 5
    for path in charts:
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        title = root.findtext("{http://www.w3.org/2000/svg}title")
        data = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        assert title and data["rows"]
        rows = list(
            csv.DictReader(path.with_suffix(".csv").read_text(encoding="utf-8").splitlines())
        )
        assert [row["p50"] for row in rows] == [
            "" if row["p50"] is None else repr(float(row["p50"])) for row in data["rows"]
        ]


def test_a_runs_csv_has_every_sample_in_order(made: Made) -> None:
    path = next(iter(sorted(made.out.glob("runs/*/*.csv"))))
    data = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    for series in data["series"]:
        own = [float(row["value"]) for row in rows if row["metric"] == series["metric"]]
        assert own == series["samples"]


def test_pyperf_reads_what_is_exported(tmp_path: Path) -> None:
    pyperf = pytest.importorskip("pyperf", reason="pyperf is not installed: bin/setup --tests")
    source = record.write(factory.cold_start("durable-pool", n=20), tmp_path)
    target = tmp_path / "out.json"
    assert main(["export", "--pyperf", str(source), "--out", str(target)]) == 0
    suite = pyperf.BenchmarkSuite.load(str(target))
    assert len(suite) == 5
    bench = next(one for one in suite if " first-reply " in one.get_name())
    assert list(bench.get_values()) == list(record.load(source).series[2].samples)
    assert bench.get_unit() == "second"


def test_what_pyperf_cannot_hold_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = record.write(factory.cold_start("durable-pool", n=0), tmp_path)
    assert main(["export", "--pyperf", str(source)]) == 64
    assert "no series that pyperf supports" in capsys.readouterr().err


def test_the_crate_of_a_results_directory(tmp_path: Path) -> None:
    for day in (1, 2):
        record.write(factory.cold_start("full", day=day, seed=str(random.random())), tmp_path)
    assert main(["export", "--ro-crate", "--results", str(tmp_path)]) == 0
    crate = json.loads((tmp_path / "ro-crate-metadata.json").read_text(encoding="utf-8"))
    parts = next(one for one in crate["@graph"] if one["@id"] == "./")["hasPart"]
    assert len(parts) == 2 and all((tmp_path / one["@id"]).is_file() for one in parts)
