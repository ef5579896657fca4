"""The claims that a run speaks to, as `coppice run` prints them at its end."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness import paths
from harness.claims import claims, of_run, published
from harness.claims.verdict import Verdict
from harness.commands import run
from harness.measure import record
from harness.measure.record import Facts, RunRecord, Series, Validity
from harness.paths import PUBLISHED
from tests.site import factory

KNOWN = claims.load(published.load(PUBLISHED))
CLAIM = "coppice-network-rtt"
"""Its answers are comparable, and measured on another system than pf."""


def rtt(value: float, n: int = 40, **change: object) -> RunRecord:
    """A record of the series that answers the claim, each sample near `value`."""
    answer = _claim().answers[0]
    dimensions: Facts = {**answer.where}
    samples = [value * (1 + at / 1000) for at in range(n)]
    series = Series(answer.metric, "s", "lower", dimensions, "closed", (), samples)
    base = factory.cold_start("full", day=1, seed="rtt")
    rig = dataclasses.replace(base.rig, id=answer.rig)
    made = dataclasses.replace(base, rig=rig, series=(series,), validity=Validity("valid"))
    return dataclasses.replace(made, **change)  # type: ignore[arg-type]


def _claim() -> claims.Claim:
    return next(one for one in KNOWN if one.id == CLAIM)


def test_a_claim_is_told_on_three_lines_with_what_was_published_ours_and_the_verdict() -> None:
    bound = _claim().figure.value
    assert bound
    lines = [line for line in of_run.lines([rtt(bound * 5)]) if line.startswith("  ")]
    mine = next(at for at, line in enumerate(lines) if _claim().title in line)
    told, here, verdict = lines[mine : mine + 3]
    assert told.startswith(f"  published  {_claim().figure.as_written}, ")
    assert here.startswith("  here ") and "of 40" in here
    assert verdict.startswith(f"  verdict    {Verdict.NOT_REACHED}")


@pytest.mark.parametrize(
    ("factor", "n", "validity", "verdict"),
    [
        (0.1, 40, "valid", Verdict.REACHED),
        (5, 40, "valid", Verdict.NOT_REACHED),
        (5, 2, "valid", Verdict.INCONCLUSIVE),
        (5, 40, "suspect", Verdict.INCONCLUSIVE),
    ],
)
def test_the_verdict_is_that_of_the_run(
    factor: float, n: int, validity: str, verdict: Verdict
) -> None:
    bound = _claim().figure.value
    assert bound
    status = Validity(validity, ("noise",) if validity != "valid" else ())  # type: ignore[arg-type]
    several = of_run.spoken([rtt(bound * factor, n, validity=status)], KNOWN)
    (found,) = [one for one in several if one.claim.id == CLAIM]
    assert found.finding.verdict is verdict


def test_a_run_that_answers_no_claim_says_nothing() -> None:
    base = rtt(1e-6)
    other = dataclasses.replace(base, rig=dataclasses.replace(base.rig, id="another"))
    nothing = dataclasses.replace(base, series=(dataclasses.replace(base.series[0], samples=()),))
    function = dataclasses.replace(
        base, machine=dataclasses.replace(base.machine, function_only="emulated")
    )
    for one in (other, nothing, function):
        assert list(of_run.lines([one])) == []
    assert list(of_run.lines([])) == []


def test_at_most_a_few_claims_are_told_and_the_judged_ones_first() -> None:
    records = [rtt(1e-3)]
    several = of_run.spoken(records, KNOWN)
    order = [of_run._ORDER.index(one.finding.verdict) for one in several]
    assert order == sorted(order)
    assert sum(line.startswith("  verdict") for line in of_run.lines(records)) <= of_run.SHOWN


def test_a_run_ends_with_its_claims_and_ends_well_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = record.write(rtt(1e-3), tmp_path)
    run._tell_claims([stored])
    out, err = capsys.readouterr()
    assert "Claims that this run speaks to:" in out and _claim().title in out and err == ""
    (tmp_path / "none").mkdir()
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "none")  # so claims.yaml cites no figure
    run._tell_claims([stored])
    out, err = capsys.readouterr()
    assert out == "" and "unknown published figure" in err
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "absent")
    run._tell_claims([stored])
    assert capsys.readouterr() == ("", "")
