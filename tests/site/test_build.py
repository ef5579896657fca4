from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import DiskFull, UsageError
from harness.measure import record
from harness.measure.record import Failure, RunRecord, Series, Validity
from harness.site.builder import build as building
from harness.site.builder.build import build
from tests.site import factory
from tests.site.conftest import Made


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_equal_inputs_give_equal_bytes(made: Made, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for path in sorted(made.results.rglob("*.json"), reverse=True):
        target = copy / path.relative_to(made.results)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
        os.utime(target, (0, 0))
    # Another process: another hash seed, another order of sets.
    code = (
        "import sys, pathlib; from harness.site.builder.build import build; "
        "build(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    argv = [sys.executable, "-c", code, str(copy), str(tmp_path / "out")]
    subprocess.run(argv, check=True, env=environment)
    assert files(tmp_path / "out") == files(made.out)


def test_the_record_stands_beside_its_page_byte_for_byte(made: Made) -> None:
    originals = {path.read_bytes() for path in made.results.rglob("*.run.json")}
    copies = [path.read_bytes() for path in made.out.glob("runs/*/*.json")]
    assert copies and set(copies) < originals
    assert len(originals) - len(copies) == 2


def test_records_that_cannot_be_read_are_listed_with_their_error(made: Made) -> None:
    text = (made.out / "runs.html").read_text(encoding="utf-8")
    assert "20261103T000000Z-00000000.cold-start.run.json" in text
    assert "coppice.run/9" in text
    assert "perhaps half-written" in text
    assert "2 records could not be read" in (made.out / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("NaN", "NaN is not a JSON number"),
        ("-Infinity", "-Infinity is not a JSON number"),
        ("1e999", "the number 1e999 is out of range"),
    ],
)
def test_a_sample_that_is_no_number_makes_a_problem(tmp_path: Path, bad: str, reason: str) -> None:
    target = record.write(factory.cold_start("full"), tmp_path / "results")
    data = json.loads(target.read_text(encoding="utf-8"))
    data["series"][2]["samples"][3] = 123456.5
    target.write_text(json.dumps(data).replace("123456.5", bad), encoding="utf-8")
    built = build(tmp_path / "results", tmp_path / "out")
    assert built.records == 0
    assert reason in built.problems[0].error


def test_unreadable_and_binary_records_do_not_break_the_rest(tmp_path: Path) -> None:
    results = tmp_path / "results"
    record.write(factory.cold_start("full"), results)
    directory = results / factory.HOST
    (directory / "a.run.json").write_bytes(b"\xff\xfe\x00\x01")
    (directory / "b.run.json").mkdir()
    (directory / "c.run.json").write_text("[" * 100_000, encoding="utf-8")
    (directory / "d.run.json").write_text("[]", encoding="utf-8")
    built = build(results, tmp_path / "out")
    assert built.records == 1
    assert [one.path[-10:] for one in built.problems] == [
        "a.run.json",
        "b.run.json",
        "c.run.json",
        "d.run.json",
    ]


def test_two_records_that_would_share_a_page(tmp_path: Path) -> None:
    target = record.write(factory.cold_start("full"), tmp_path / "results")
    shutil.copy(target, target.with_name(target.name.replace("cold-start", "cold_start")))
    built = build(tmp_path / "results", tmp_path / "out")
    assert built.records == 1
    assert "would have the same address as that of" in built.problems[0].error


def test_no_record_at_all(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    build(tmp_path / "results", tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    rows = re.findall(r'<tr id="coppice-[^"]+">(.*?)</tr>', text, re.DOTALL)
    assert ["not measured on this host" in row for row in rows] == [True] * 3
    assert "mise run bench:qemu-full" in text
    assert "There are no records yet" in (tmp_path / "out" / "runs.html").read_text(
        encoding="utf-8"
    )


def test_no_such_results_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a directory of records"):
        build(tmp_path / "results", tmp_path / "out")


def only(tmp_path: Path, *records: RunRecord) -> str:
    for one in records:
        record.write(one, tmp_path / "results")
    build(tmp_path / "results", tmp_path / "out")
    return (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_the_newest_full_profile_is_shown_and_else_the_newest_of_any(tmp_path: Path) -> None:
    tier = "durable-prewarm-pool"
    old = factory.cold_start(tier, day=1)
    new = factory.cold_start(tier, day=2)
    quick = factory.cold_start(tier, day=3, profile="quick", n=20)
    text = only(tmp_path, old, new, quick)
    assert f"{new.run_id.lower()}-cold-start.html#/series/2.p50" in text
    assert old.run_id.lower() not in text and quick.run_id.lower() not in text


def test_a_quick_record_serves_and_says_so(tmp_path: Path) -> None:
    tier = "durable-prewarm-pool"
    first = factory.cold_start(tier, day=3, profile="quick", n=20)
    second = factory.cold_start(tier, day=4, profile="quick", n=21)
    text = only(tmp_path, first, second)
    assert second.run_id.lower() in text and first.run_id.lower() not in text
    assert "quick profile" in text
    assert "needs 72 samples, has 21" in text


def test_another_machine_is_named_and_not_mixed_in(tmp_path: Path) -> None:
    other = factory.cold_start("full", day=1, host=factory.machine("other-host"))
    own = factory.cold_start("full", day=2, seed="own")
    text = only(tmp_path, other, own, factory.cold_start("durable-pool", day=2))
    assert "machines/other-host.html" in text
    assert other.run_id.lower() not in text


def test_suspect_and_failed_runs_carry_a_mark_in_words(tmp_path: Path) -> None:
    suspect = Validity("suspect", ("swap moved (test)",))
    failed = Validity("failed", ("every guest died (test)",))
    failures = [Failure(index, "died (test)") for index in range(30)]
    text = only(
        tmp_path,
        factory.cold_start("durable-pool", validity=suspect),
        factory.cold_start("full", n=0, failures=failures, validity=failed),
    )
    assert re.search(r'class="mark suspect" href="[^"]*#validity">suspect</a>', text)
    assert re.search(r"all 30 failed.*?#validity\">failed</a>", text)
    pages = [path.read_text(encoding="utf-8") for path in (tmp_path / "out").glob("runs/*/*.html")]
    assert any("swap moved (test)" in page for page in pages)
    assert any("Failed attempts: 30 of 30" in page for page in pages)
    assert any("died (test) <small>(attempt 1–30)</small>" in page for page in pages)


def test_other_rigs_and_units_get_a_page(tmp_path: Path) -> None:
    base = factory.cold_start("full")
    series = (
        Series("host-change", "bytes", "lower", {"n": 8}, "closed", (), [1.8e7, 1.9e7]),
        Series("host-change", "bytes", "lower", {"n": 50}, "closed", (), [1.6e7, 0.0]),
        Series("endpoint", "1", "higher", {"sdk": None}, "closed", (), [1, 1, 0, 1]),
        Series("throughput", "bytes/s", "higher", {}, "open", (), [1.8e9] * 9),
        Series("nothing", "1/s", "higher", {}, "open"),
    )
    rig = dataclasses.replace(base.rig, id="density")
    only(tmp_path, dataclasses.replace(base, rig=rig, series=series))
    (path,) = (tmp_path / "out").glob("runs/*/*.html")
    text = path.read_text(encoding="utf-8")
    for anchor in ("/series/0.p50", "/series/1.p50", "/series/2.min", "/series/4"):
        assert f'id="{anchor}"' in text
    assert 'id="/series/4.p50"' not in text, "a place where no figure stands"


EVIL = "</script><!--<script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg onload=alert(3)>"


def poison(value: object) -> object:
    """Every free string of a record, keys too, made hostile."""
    if isinstance(value, dict):
        return {key: poison(one) for key, one in value.items()}
    if isinstance(value, list):
        return [poison(one) for one in value]
    return EVIL + value if isinstance(value, str) else value


def without_data(page: str) -> tuple[str, list[dict[str, object]]]:
    """A page without the data that stand in it for machines, and these."""
    pattern = r'<script type="application/ld\+json">(.*?)</script>'
    # Neither may stand within the element: what a reader of HTML takes for its end or a comment.
    found = re.findall(pattern, page, re.S)
    assert not any("<" in one for one in found)
    # The site's one script, which every page names once and no page needs.
    script = r'<script src="(?:/|(?:\.\./)*)static/page\.js" defer></script>'
    page, named = re.subn(script, "", page)
    assert named == 1
    return re.sub(pattern, "", page, flags=re.S), [json.loads(one) for one in found]


def test_strings_of_a_record_are_harmless_everywhere(tmp_path: Path) -> None:
    base = factory.cold_start(
        "full", failures=[Failure(1, "x")], validity=Validity("suspect", ("x",))
    ).to_json()
    data = poison(base)
    assert isinstance(data, dict)
    for key in ("schema", "run_id"):
        data[key] = base[key]
    data["rig"]["sha256"] = base["rig"]["sha256"]
    data["images"][0]["sha256"] = base["images"][0]["sha256"]
    data["machine"]["class"] = base["machine"]["class"]
    data["validity"]["status"] = "suspect"
    for facts in (data["tools"], data["machine"]["before"], data["command"]["env"]):
        facts[EVIL] = EVIL
    data["clock"]["stop"] = {EVIL: EVIL}
    data["rig"]["id"] = "cold-start"
    for index, one in enumerate(data["series"]):
        original = base["series"][index]
        one.update({key: original[key] for key in ("unit", "better", "loop")})
        one["dimensions"][EVIL] = EVIL
    data["series"][2]["metric"] = "first-reply"
    data["series"][2]["dimensions"].update(substrate=f"qemu{EVIL}", tier=EVIL)
    directory = tmp_path / "results" / "x<script>"
    directory.mkdir(parents=True)
    (directory / "a<script>.run.json").write_text(json.dumps(data), encoding="utf-8")
    (directory / "b<script>.run.json").write_text("<script>", encoding="utf-8")
    built = build(tmp_path / "results", tmp_path / "out")
    assert built.records == 1, built.problems
    shown = 0
    for path in (tmp_path / "out").rglob("*.html"):
        text, blocks = without_data(path.read_text(encoding="utf-8"))
        assert all(one["@type"] == "Dataset" for one in blocks)
        assert "<!--" not in text
        assert not re.search(r"<script|<img|<svg onload|\son\w+=[^&]*alert[^&]*>", text.lower())
        shown += text.count("&lt;script&gt;alert(1)")
    assert shown > 30


def test_a_failed_build_leaves_the_old_site_whole(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    build(made.results, out)
    before = files(out)
    sources = tmp_path / "sources"
    shutil.copytree(building.SOURCES, sources)
    (sources / "templates" / "method.html").write_text("{{ no_such_name }}", encoding="utf-8")
    with pytest.raises(Exception, match="no_such_name"):
        build(made.results, out, sources=sources)
    assert files(out) == before

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskFull, match="no disk space for the site"):
        build(made.results, out, options=building.Options(again=True))
    monkeypatch.undo()
    assert files(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "sources"]


def test_a_directory_that_is_not_ours_is_not_replaced(made: Made, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="not a site that this command built"):
        build(made.results, tmp_path)
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "mine"


def test_only_one_script_and_small_pages(made: Made) -> None:
    for path in made.pages():
        text = path.read_text(encoding="utf-8")
        assert len(text.encode()) < 150_000, path
        text, blocks = without_data(text)
        runs = "runs" in path.parts and not re.search(r"\.\d+\.html$", path.name)
        assert len(blocks) == (path.name == "index.html" or runs), path
        assert "<script" not in text and "javascript:" not in text
        limit = 150_000 if path.name == "published-starts.html" else 100_000
        assert len(text) < limit, path


def test_the_run_side_imports_nothing_of_the_site() -> None:
    code = (
        "import sys; import harness.commands.site, harness.measure.record, harness.rig.info;"
        "bad = [m for m in sys.modules if m.startswith('harness.site') or m in "
        "('jinja2', 'matplotlib', 'pandas', 'markdown_it', 'scipy')];"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_noop_measured_last_does_not_name_the_accelerator(tmp_path: Path) -> None:
    noop = factory.cold_start("durable-prewarm-pool", substrate="noop", day=9)
    text = only(tmp_path, factory.cold_start("full"), noop)
    assert "Its microVMs are emulated in software (TCG)" in text
    assert "noop: the harness alone" in text
