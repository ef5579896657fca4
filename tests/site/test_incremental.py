"""What did not change is not made again; what was made again is what a build from nothing gives."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.errors import DiskFull
from harness.measure import record
from harness.measure.record import Validity
from harness.site.builder import build as building
from harness.site.builder import digest_cache, output
from harness.site.builder.build import Options, build
from harness.site.builder.digest_cache import DigestCache
from tests.site import factory
from tests.site.test_build import files


def many(results: Path, count: int) -> None:
    """So many runs of one tier and rung, on two machines, with a step in the middle."""
    hosts = [factory.machine(), factory.machine("other-host")]
    for number in range(count):
        one = factory.cold_start(
            "durable-pool", n=6, day=1 + number % 28, seed=f"{number}", host=hosts[number % 2]
        )
        record.write(one, results)


def test_one_record_more_leaves_other_pages_as_they_are(tmp_path: Path) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    many(results, 40)
    first = build(results, out)
    before = {path: (out / path).stat().st_ino for path in files(out)}
    same = build(results, out)
    assert same.made < first.made / 2
    runs = [path for path in before if path.startswith("runs/")]
    assert all((out / path).stat().st_ino == before[path] for path in runs)
    record.write(factory.cold_start("full", day=28, n=6), results)
    more = build(results, out)
    assert more.records == 41
    assert all((out / path).stat().st_ino == before[path] for path in runs)
    fresh = tmp_path / "fresh"
    build(results, fresh)
    assert files(out) == files(fresh)


def test_a_record_that_went_or_changed_is_seen(tmp_path: Path) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    many(results, 6)
    build(results, out)
    gone, changed, *_ = record.find(results)
    gone.unlink()
    data = json.loads(changed.read_text(encoding="utf-8"))
    data["validity"] = {"status": "suspect", "reasons": ["changed by hand (test)"]}
    changed.write_text(json.dumps(data), encoding="utf-8")
    assert build(results, out).records == 5
    build(results, tmp_path / "fresh")
    assert files(out) == files(tmp_path / "fresh")
    pages = [path.read_text(encoding="utf-8") for path in out.glob("runs/*/*.html")]
    assert sum("changed by hand (test)" in text for text in pages) == 1


def test_other_code_makes_everything_anew(tmp_path: Path) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    many(results, 4)
    first = build(results, out)
    sources = tmp_path / "sources"
    shutil.copytree(building.SOURCES, sources)
    (sources / "templates/runs.html").write_text(
        (building.SOURCES / "templates/runs.html")
        .read_text(encoding="utf-8")
        .replace("<h1>Runs", "<h1>All runs"),
        encoding="utf-8",
    )
    assert build(results, out, sources=sources).made == first.made
    assert "All runs" in (out / "runs.html").read_text(encoding="utf-8")
    assert build(results, out, sources=sources, options=Options(again=True)).made == first.made


def test_a_file_of_the_old_site_that_went_is_made_again(tmp_path: Path) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    many(results, 4)
    build(results, out)
    whole = files(out)
    for path in out.glob("runs/*/*.html"):
        path.unlink()
    (out / output.MARKER).write_text("{}", encoding="utf-8")
    build(results, out)
    assert files(out) == whole


def test_a_lab_of_many_records_stays_quick_and_its_pages_small(tmp_path: Path) -> None:
    """A part of what must build within a minute, with room for a busy machine."""
    results, out = tmp_path / "results", tmp_path / "out"
    many(results, 320)
    build(results, out)
    # What depends on all records, such as the page of each claim: the runs are not among it.
    assert build(results, out).made < 240
    for path in out.rglob("*.html"):
        assert path.stat().st_size < 150_000, path
    lists = sorted(path.name for path in out.glob("machines/*.html"))
    assert lists == ["other-host.1.html", "other-host.html", "test-host.1.html", "test-host.html"]
    named = json.loads((out / "index.json").read_text(encoding="utf-8"))
    assert len(named["records"]) == 320
    for host in ("test-host", "other-host"):
        rows = list(
            csv.DictReader(
                (out / f"history/{host}.cold-start.csv").read_text(encoding="utf-8").splitlines()
            )
        )
        assert sum(row["metric"] == "first-reply" for row in rows) == 160


def test_a_million_samples_and_one_and_none(tmp_path: Path) -> None:
    results = tmp_path / "results"
    base = factory.cold_start("full", n=1)
    record.write(base, results)
    record.write(factory.cold_start("durable-pool", n=0), results)
    data = factory.cold_start("prewarm-pool", n=3).to_json()
    million = factory.samples(0.01, 10_000, "million") * 100
    million[777_777] = 2.5
    data["series"] = data["series"][2:3]
    data["series"][0]["samples"] = million
    directory = results / factory.HOST
    (directory / f"{data['run_id']}.cold-start.run.json").write_text(
        json.dumps(data), encoding="utf-8"
    )
    built = build(results, tmp_path / "out")
    assert (built.records, built.problems) == (3, ())
    sizes = [path.stat().st_size for path in (tmp_path / "out").glob("runs/*/*.html")]
    assert max(sizes) < 150_000
    pages = [path.read_text(encoding="utf-8") for path in (tmp_path / "out").glob("runs/*/*.html")]
    (large,) = (text for text in pages if "1000000 samples" in text)
    assert 'class="envelope"' in large and "2.5 s" in large
    assert any("No sample." in text for text in pages)
    assert not list((tmp_path / "out").glob(f"runs/*/{data['run_id'].lower()}*.csv"))


def test_a_suspect_run_decides_no_claim(tmp_path: Path) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    bad = Validity("suspect", ("load (test)",))
    record.write(factory.cold_start("full", validity=bad), results)
    build(results, out)
    text = (out / "claims/coppice-full-boot.html").read_text(encoding="utf-8")
    assert "not comparable" in text and ">suspect</a>" in text


def test_a_record_touched_or_changed_in_place_is_read_again_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPPICE_CACHE", str(tmp_path / "cache"))
    many(tmp_path / "results", 4)
    first, second, *_ = paths = list(record.find(tmp_path / "results"))
    for path in paths:
        os.utime(path, ns=(10**18, 10**18))
    # What was written a moment ago may change again within one step of the clock.
    monkeypatch.setattr(digest_cache, "_RACY_NS", -(10**18))
    looked = DigestCache(tmp_path / "results")
    digests = {path: looked.digest(path) for path in paths}
    looked.save()
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return record.digest(path)

    monkeypatch.setattr(digest_cache, "digest", counted)
    # The same size, and the same time of its content.
    first.write_bytes(first.read_bytes().replace(b"Imaginary", b"imaginary"))
    os.utime(first, ns=(10**18, 10**18))
    again = DigestCache(tmp_path / "results")
    found = {path: again.digest(path) for path in paths}
    assert read == [first] and found[first] != digests[first]
    assert all(found[path] == digests[path] for path in paths[1:])
    second.unlink()
    assert DigestCache(tmp_path / "results").digest(second) == ""


@dataclass(frozen=True)
class Begun:
    """A lab that changed since its site was built, that site, and what a build from nothing is."""

    results: Path
    out: Path
    whole: dict[str, bytes]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Begun:
    directory = tmp_path_factory.mktemp("begun")
    results, out = directory / "results", directory / "out"
    many(results, 8)
    build(results, out)
    record.write(factory.cold_start("full", day=28, n=6), results)
    next(record.find(results)).unlink()
    build(results, directory / "fresh")
    return Begun(results, out, files(directory / "fresh"))


def test_a_build_that_was_killed_before_all_was_ready_is_as_if_it_never_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: Begun
) -> None:
    out = tmp_path / "out"
    shutil.copytree(begun.out, out)
    before = files(out)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(output.Directory, "place", full)
        with pytest.raises(DiskFull, match="the old site is unchanged"):
            build(begun.results, out)
    assert files(out) == before
    # What a killed one leaves, which cleans nothing up.
    (out / ".coppice-next/runs").mkdir(parents=True)
    (out / ".coppice-next/runs/half.html").write_text("<p>half", encoding="utf-8")
    build(begun.results, out)
    assert files(out) == begun.whole


def test_builds_that_were_killed_while_files_took_their_places_are_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: Begun
) -> None:
    """The first before any file, the second and third, which find that, after some and many."""
    out = tmp_path / "out"
    shutil.copytree(begun.out, out)
    replace = Path.replace
    left: list[int] = []

    def killed(self: Path, target: Path) -> Path:
        if ".coppice-ready" in self.parts:
            if not left[-1]:
                raise KeyboardInterrupt
            left[-1] -= 1
        return replace(self, target)

    for moved in (0, 3, 30):
        left.append(moved)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                build(begun.results, out)
        assert left[-1] == 0
        assert all(
            path.read_text(encoding="utf-8").endswith("</html>\n") for path in out.rglob("*.html")
        )
    assert build(begun.results, out).made < 240
    assert files(out) == begun.whole


@pytest.mark.parametrize("spoilt", [b"", b"{}", b"half", None])
def test_a_spoilt_marker_makes_everything_anew(tmp_path: Path, spoilt: bytes | None) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    many(results, 3)
    first = build(results, out)
    whole = files(out)
    marker = out / output.MARKER
    other = marker.read_bytes().replace(b"Imaginary", b"imaginary") if spoilt is None else spoilt
    assert other != marker.read_bytes()
    marker.write_bytes(other)
    assert build(results, out).made == first.made
    assert files(out) == whole
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
