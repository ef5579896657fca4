"""`coppice chart`: every chart of the site as a file for a paper."""

from __future__ import annotations

import dataclasses
import itertools
import re
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest

from harness import paths
from harness.cli import main
from harness.commands import chart
from harness.measure import record
from harness.measure.quantity import show
from harness.measure.record import Failure
from harness.site.data import corpus
from harness.site.data.corpus import Corpus
from harness.site.plots import catalogue, drawing, plot, style
from harness.site.plots.plot import Plot
from tests.site import factory
from tests.site.conftest import kept

__all__ = ["kept"]

FIXED = {
    "clock-ladder",
    "clocks",
    "cold-start",
    "cold-start-rungs",
    "compare-first-exec",
    "compare-first-reply",
    "density-each",
    "density-total",
    "network-ladder",
    "policy-churn",
    "policy-update",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("charts") / "results"
    factory.whole(results)
    record.write(factory.cold_start("full", day=3, host=factory.machine("other-host")), results)
    return results


@pytest.fixture(scope="module")
def real(kept: Path) -> Corpus:
    return corpus.load(kept, kept / "published")


def _run(capsys: pytest.CaptureFixture[str], made: Path, *arguments: str) -> str:
    assert main(["chart", *arguments, "--results", str(made)]) == 0
    return capsys.readouterr().out


def _content(chosen: Plot, kind: str, width: float = plot.WIDTH) -> bytes:
    lines = plot.caption(chosen, drawing.key(chosen.picture))
    return style.content(drawing.draw(chosen.picture, width), kind, plot.metadata(chosen, lines))


def _few(real: Corpus) -> Sequence[Plot]:
    """Every chart, but of families of many charts only some."""
    found: list[Plot] = []
    for family in catalogue.families():
        plots = list(family.plots(real))
        found += plots[:: max(1, len(plots) // 6)] if family.many else plots
    return found


def test_every_chart_can_be_drawn_of_the_committed_records(real: Corpus) -> None:
    several = _few(real)
    chosen = [drawn.name for drawn in several]
    assert {name for name in chosen if "/" not in name} >= FIXED
    assert {name.partition("/")[0] for name in chosen if "/" in name} == {
        "claim", "history", "series",
    }  # fmt: skip
    for drawn in several:
        assert _content(drawn, "svg").startswith(b"<?xml"), drawn.name
    names = [drawn.name for family in catalogue.families() for drawn in family.plots(real)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", style.FORMATS)
def test_equal_records_give_equal_bytes(real: Corpus, kept: Path, kind: str) -> None:
    again = corpus.load(kept, kept / "published")
    for name in ("cold-start", "density-each"):
        first, second = (
            _content(catalogue.named(records, name), kind) for records in (real, again)
        )
        assert first == second
        assert not re.search(rb"(CreationDate|<dc:date>|tIME)", first)


def test_a_pdf_embeds_its_fonts_and_has_the_requested_width(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.pdf"
    where = ["--machine", factory.HOST, "--width", "89mm"]
    caption = _run(capsys, made, "cold-start", "--out", str(out), *where)
    content = out.read_bytes()
    # Type 42 is embedded TrueType; publishers reject Type 3.
    streams = b"".join(
        zlib.decompress(stream) if stream[:1] == b"x" else stream
        for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.S)
    )
    assert b"/CIDFontType2" in content + streams and b"/Type3" not in content + streams
    assert b"/FontFile2" in content + streams
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", content)
    assert box and float(box[1]) == pytest.approx(89 / 25.4 * 72, abs=0.5)
    assert "durable-prewarm-pool: n = 400, 2026-11-01" in caption
    assert re.search(r"Measured on Test host .* accelerator of the guests: none, tcg\.", caption)


def test_the_caption_names_the_source_of_every_figure(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.svg"
    caption = _run(capsys, made, "cold-start", "--machine", factory.HOST, "--out", str(out))
    found = catalogue.of_machine(corpus.load(made, paths.PUBLISHED), factory.HOST)
    chosen = catalogue.named(found, "cold-start")
    shown = [row for row in chosen.rows if row.entry and row.series]
    assert len(shown) == 5
    content = out.read_text(encoding="utf-8")
    for row in shown:
        assert row.entry and row.entry.summary.run_id in caption
        assert row.entry.summary.run_id in content
    assert "suspect" in caption and "Published by the original Coppice (FreeBSD)" in caption
    assert f"({factory.HOST}; " in caption


def test_pages_and_papers_show_the_same_figures(made: Path) -> None:
    found = catalogue.of_machine(corpus.load(made, paths.PUBLISHED), factory.HOST)
    chosen = catalogue.named(found, "cold-start")
    page, paper = str(chosen.picture.svg()), _content(chosen, "svg").decode()
    medians = re.findall(r'data-value="[^"]+">([^<]+)<', page)
    assert len(medians) > 5
    for median in medians:
        assert re.search(rf"[> ]{re.escape(median)}<", paper), median


def test_a_machine_is_chosen_by_its_id_or_its_beginning(
    made: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # The machine measured last has one tier only; the one with the most evidence is the default.
    out = str(tmp_path / "x.svg")
    assert "n = 400" in _run(capsys, made, "cold-start", "--out", out)
    assert "n = 400" not in _run(capsys, made, "cold-start", "--machine", "other", "--out", out)
    argv = ["chart", "--list", "--machine", "none", "--results", str(made)]
    assert main(argv) == 64
    error = capsys.readouterr().err
    assert "names no machine" in error and factory.HOST in error and "other-host" in error


def test_the_list_names_what_can_be_drawn(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = _run(capsys, made, "--list", "--machine", factory.HOST)
    assert "cold-start-rungs" in few and "density" not in few
    count = re.search(r"series/\.\.\. .*: (\d+), listed by", few)
    assert count
    many = _run(capsys, made, "--list", "series/", "--machine", factory.HOST).splitlines()
    assert len(many) == int(count[1]) and all(line.startswith("series/") for line in many)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["cold-strat", "--out", "x.pdf"], 64, "did you mean cold-start"),
        (["cold-start"], 64, "needs a name and a file"),
        (["cold-start", "--out", "x.jpg"], 64, ".pdf, .svg, .png"),
        (["cold-start", "--out", "no/such/x.pdf"], 73, "no/such/x.pdf: No such file"),
        (["density-total", "--out", "x.pdf"], 64, "no record for it"),
        (
            ["cold-start", "--out", "x.pdf", "--results", "none"],
            64,
            "is not a directory of records",
        ),
    ],
)
def test_requests_that_cannot_be_drawn_say_why(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["chart", "--results", str(made), *arguments]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["wide", "1in", "99in", "-3in", "3 feet"])
def test_an_invalid_width_is_refused(text: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["chart", "cold-start", "--out", "x.pdf", f"--width={text}"])
    assert ended.value.code == 64


def test_widths_are_read_in_the_units_of_publishers() -> None:
    assert chart.inches("3.5in") == chart.inches("3.5") == 3.5
    assert chart.inches("89mm") == pytest.approx(chart.inches("8.9cm"))
    assert chart.inches("252.945pt") == pytest.approx(3.5)


def test_failed_attempts_and_missing_measurements_are_shown(tmp_path: Path) -> None:
    bad = (Failure(0, "died (test)"), Failure(3, "late (test)"))
    record.write(factory.cold_start("full", failures=bad), tmp_path)
    found = corpus.load(tmp_path, paths.PUBLISHED)
    entry = found.entries[0]
    chosen = catalogue.named(found, f"series/{entry.summary.run_id}/2")
    assert any("2 failed" in line for line in plot.caption(chosen, ""))
    figure = drawing.draw(chosen.picture, plot.WIDTH)
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [numpy.asarray(line.get_xdata()).tolist() for line in crosses] == [[0, 3]]
    svg = _content(catalogue.named(found, "cold-start"), "svg").decode()
    assert "not measured on this host" in svg
    summary = entry.summary.series[2].get("p50")
    assert summary and show(summary, "s") in svg


def test_a_function_only_machine_has_no_figures(tmp_path: Path) -> None:
    host = dataclasses.replace(factory.machine(), function_only="emulated (test)")
    record.write(factory.cold_start("full", host=host), tmp_path)
    found = corpus.load(tmp_path, paths.PUBLISHED)
    names = {drawn.name for family in catalogue.families() for drawn in family.plots(found)}
    assert names == {"clock-ladder", "clocks"}


def test_without_matplotlib_the_command_that_installs_it_is_shown(made: Path) -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None; from harness.cli import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    argv = ["chart", "cold-start", "--out", str(made / "x.pdf"), "--results", str(made)]
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 69, done.stderr
    assert "needs the Python package matplotlib" in done.stderr and "pip install" in done.stderr


def test_hues_differ_in_grey_or_in_marker_and_dashes() -> None:
    """So that curves can be told apart without colour vision."""

    def lightness(colour: str) -> float:
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), channels, strict=True))

    kinds = list(zip(style.MARKERS, map(str, style.DASHES), style.HUES, strict=True))
    assert len({marker for marker, _, _ in kinds}) == len(kinds)
    for (_, dashes, hue), (_, other_dashes, other_hue) in itertools.combinations(kinds, 2):
        if dashes == other_dashes:
            assert abs(lightness(hue) - lightness(other_hue)) > 0.1
