"""A machine whose clocks tell no time: what ran there is proved to work, and no figure is shown."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from harness.errors import RecordError
from harness.measure import machine, record
from harness.measure.record import Machine, RunRecord
from harness.site.builder.build import build
from harness.site.data.estimates import PERCENTILES, estimates_of
from tests.site import factory

REASON = "its processor is emulated (test)"
_DATA = re.compile(r'<data value="([^"]+)"')


def marked(name: str = "freebsd") -> Machine:
    return dataclasses.replace(factory.machine(name), function_only=REASON)


def emulated() -> Machine:
    return dataclasses.replace(factory.machine("freebsd"), class_="emulated")


def figures_of(one: RunRecord) -> set[float]:
    found = [estimates_of(series) for series in one.series]
    return {every[name].value for every in found for name in (*PERCENTILES, "min", "max")
            if name in every}  # fmt: skip


def shown(out: Path) -> set[float]:
    """Every figure of every page."""
    pages = [path.read_text(encoding="utf-8") for path in out.rglob("*.html")]
    return {float(value) for text in pages for value in _DATA.findall(text)}


def test_the_reason_is_on_the_card_and_survives_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(machine.FUNCTION_ONLY, f" {REASON}\n")
    assert machine.describe(None).function_only == REASON
    one = factory.cold_start("full", n=3, host=marked())
    assert record.load(record.write(one, tmp_path)).machine.function_only == REASON
    for blank in ("", "  "):
        monkeypatch.setenv(machine.FUNCTION_ONLY, blank)
        assert machine.describe(None).function_only is None
    plain = factory.cold_start("full", n=3).to_json()
    assert "function_only" not in plain["machine"]
    plain["machine"]["function_only"] = " "
    with pytest.raises(RecordError, match="function_only"):
        record.check(plain)


@pytest.mark.parametrize("host", [marked(), emulated()], ids=["marked", "emulated"])
def test_no_figure_of_it_is_shown_and_function_is(tmp_path: Path, host: Machine) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    real = factory.cold_start("full", day=1)
    made = factory.cold_start("durable-prewarm-pool", substrate="bhyve", day=9, host=host, n=9)
    record.write(real, results)
    record.write(made, results)
    build(results, out)
    assert shown(out) & figures_of(real)
    assert not shown(out) & figures_of(made)
    reason = host.function_only or "the machine itself is emulated"
    page = next(out.glob("runs/freebsd/*.html")).read_text(encoding="utf-8")
    assert page.count("function proved</span>") == len(made.series) and reason in page
    assert not list(out.glob("runs/freebsd/*.svg")) + list(out.glob("runs/freebsd/*.csv"))
    # Measured last, and not the machine of the front page, whose table says that bhyve works.
    front = (out / "index.html").read_text(encoding="utf-8")
    assert "function proved</a></span>" in front and "test-host" in front
    card = (out / "machines/freebsd.html").read_text(encoding="utf-8")
    assert "Function only." in card and reason in card and "coppice-cold-start" in card
    claim = (out / "claims/coppice-cold-start.html").read_text(encoding="utf-8")
    assert "function proved</a></span>" in claim and "9 of 9" in claim and reason in claim
    assert 'class="badge not-measured-here"' in claim
    numbers = (out / "numbers.html").read_text(encoding="utf-8")
    assert "Function proved, on" in numbers and "function proved</a></span>" in numbers
    essay = (out / "essays/freebsd-bhyve.html").read_text(encoding="utf-8")
    assert ("function proved" in essay) == ("not measured on this host" not in essay)


def test_beside_figures_of_the_same_machine_it_takes_nothing_away(tmp_path: Path) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    real = factory.cold_start("durable-pool", day=1)
    later = factory.cold_start(
        "durable-pool", day=9, host=dataclasses.replace(marked(), id=factory.HOST)
    )
    record.write(real, results)
    record.write(later, results)
    build(results, out)
    assert shown(out) & figures_of(real) and not shown(out) & figures_of(later)
    assert "function proved" not in (out / "numbers.html").read_text(encoding="utf-8")


def test_a_site_of_nothing_else_builds_and_tells_no_time(tmp_path: Path) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    made = [factory.cold_start(tier, host=marked()) for tier in ("full", "durable-pool")]
    made.append(factory.cold_start("full", host=marked(), n=0, day=3))
    for one in made:
        record.write(one, results)
    build(results, out)
    assert not shown(out) & set().union(*map(figures_of, made))
    assert "function not proved" in "".join(
        p.read_text(encoding="utf-8") for p in out.glob("runs/*/*.html")
    )
    assert "function proved" in (out / "numbers.html").read_text(encoding="utf-8")
