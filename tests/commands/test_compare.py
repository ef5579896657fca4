"""`coppice compare` and `coppice run --interleave`, with invented records and the noop rig."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli import main
from harness.measure import record, selection
from harness.measure.comparison import Thresholds
from harness.measure.record import Failure, Series, Validity
from tests.site import factory

VALID = Validity("valid")
SUSPECT = Validity("suspect", ("other programs used 40 % of the CPU",))


def _series(scale: float, many: int, seed: str, **dimensions: record.Scalar) -> Series:
    samples = factory.samples(0.01 * scale, many, seed)
    return Series(
        "first-reply", "s", "lower", {"tier": "full", **dimensions}, "closed", (), samples
    )


def _store(
    results: Path,
    *series: Series,
    day: int,
    commit: str = "a",
    env: str = "",
    validity: Validity = VALID,
    kernel: str = "",
) -> Path:
    base = factory.cold_start("full", day=day, seed=f"{day}{commit}{env}")
    environment = {selection.INTERLEAVE: env} if env else {}
    made = dataclasses.replace(
        base,
        series=series,
        git=dataclasses.replace(base.git, commit=commit * 40),
        command=dataclasses.replace(base.command, env=environment),
        validity=validity,
        machine=dataclasses.replace(base.machine, kernel=kernel or base.machine.kernel),
    )
    return record.write(made, results)


def test_two_records_give_a_table_and_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = _store(tmp_path, _series(1.0, 60, "a"), day=1)
    new = _store(tmp_path, _series(1.5, 60, "b"), day=2)
    assert main(["compare", str(old), str(new)]) == 1
    out = capsys.readouterr().out
    assert "worse (n 60, 60)" in out and "first-reply" in out
    assert main(["compare", str(new), str(old)]) == 0
    assert main(["compare", str(new), str(old), "--fail-on", "different"]) == 1
    assert main(["compare", str(old), str(new), "--fail-on", "never"]) == 0
    assert main(["compare", str(old), str(new), "--relative", "0.9"]) == 0
    assert main(["compare", str(old), str(old)]) == 64
    assert "the same series of the same records" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--alpha", "7"), ("--alpha", "0"), ("--alpha", "-3"), ("--alpha", "nan"),
        ("--relative", "nan"), ("--relative", "-1"), ("--absolute", "inf"), ("--absolute", "x"),
        ("--metric", "no-such"),
    ],
)  # fmt: skip
def test_thresholds_and_metrics_that_make_no_sense_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    first = _store(tmp_path, _series(1.0, 40, "a"), day=1)
    second = _store(tmp_path, _series(1.0, 40, "b"), day=2)
    try:
        code = main(["compare", str(first), str(second), f"{option}={value}"])
    except SystemExit as end:  # of argparse
        code = int(str(end.code))
    assert code == 64
    assert value in capsys.readouterr().err


def test_commits_and_configurations_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day, commit in ((1, "a"), (2, "b"), (3, "b")):
        both = [_series(1, 40, f"{day}{n}", n=n) for n in (1, 10)]
        _store(tmp_path, *both, day=day, commit=commit)
    command = ["compare", "commit=aaaa", "commit=bbbb", "--results", str(tmp_path), "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["dimensions"]["n"] for row in found["rows"]] == [1, 10]
    # Of several matching runs, the newest: they are never pooled.
    assert [len(row["records"][1]) for row in found["rows"]] == [1, 1]
    assert found["rows"][0]["records"][1][0].startswith("20261103")
    assert {row["outcome"] for row in found["rows"]} == {"no difference"}
    assert main(["compare", "n=1", "n=10", "--results", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["varied"] == {"n": ["1", "10"]}
    (row,) = found["rows"]
    assert "n" not in row["dimensions"] and row["dimensions"]["tier"] == "full"


def test_a_side_with_several_configurations_is_matched_by_dimensions(tmp_path: Path) -> None:
    several = [_series(1, 9, f"x{n}", n=n) for n in (1, 10)]
    _store(tmp_path, *several, day=1, commit="a")
    _store(tmp_path, _series(1, 9, "y", n=10), day=2, commit="b")
    a = selection.select("commit=aaaa", tmp_path)
    b = selection.select("commit=bbbb,n=10", tmp_path)
    (row,) = selection.compare_sides(a, b, Thresholds())
    assert row.dimensions["n"] == 10


def test_interleaved_runs_are_compared_round_by_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(9):
        level = 1 + number  # the host becomes slower
        for arm, scale in (("a", 1.0), ("b", 1.2)):
            series = _series(level * scale, 25, f"{number}{arm}")
            _store(tmp_path, series, day=1 + number, env=f"s1/{arm}/{number}")
    argv = ["compare", "interleave=s1/a", "interleave=s1/b", "--results", str(tmp_path)]
    assert main(argv) == 1
    assert "worse (9 rounds)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("tier=none", "tier=full", "no record matches"),
        ("nothing", "tier=full", "no record matches"),
        ("tier=", "tier=full", "invalid selector"),
        ("n=1", "rig=cold-start,tier=durable-pool", "no record matches"),
    ],
)
def test_impossible_comparisons_are_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], a: str, b: str, message: str
) -> None:
    _store(tmp_path, _series(1, 9, "a", n=1), day=1)
    assert main(["compare", a, b, "--results", str(tmp_path)]) == 64
    assert message in capsys.readouterr().err


def test_a_suspect_record_is_shown_but_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = _store(tmp_path, _series(1.0, 60, "a"), day=1, validity=SUSPECT)
    new = _store(tmp_path, _series(1.5, 60, "b"), day=2)
    for argv, code, outcome in (
        ([], 65, "not judged"),
        (["--fail-on", "never"], 65, "not judged"),
        (["--suspect"], 1, "worse"),
        (["--suspect", "--fail-on", "never"], 0, "worse"),
    ):
        assert main(["compare", str(old), str(new), *argv]) == code
        out, err = capsys.readouterr()
        assert f"{outcome} (n 60, 60, suspect)" in out
        assert out.splitlines()[0].endswith("; suspect") and out.splitlines()[1].endswith("; valid")
        assert "A, run 20261101" in err and SUSPECT.reasons[0] in err
    assert main(["compare", str(old), str(new), "--json"]) == 65
    found = json.loads(capsys.readouterr().out)
    assert [one["status"] for one in found["doubts"]] == ["suspect"]
    assert [(row["outcome"], row["valid"]) for row in found["rows"]] == [("not judged", False)]


def test_what_differs_besides_and_the_days_stand_above_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = _store(tmp_path, _series(1.0, 60, "a"), day=1, kernel="6.1.0")
    new = _store(tmp_path, _series(1.0, 60, "b"), day=2, commit="b", kernel="6.12.0")
    assert main(["compare", str(old), str(new)]) == 0
    out = capsys.readouterr().out
    assert "Not interleaved" in out and "A ran on 2026-11-01, B on 2026-11-02." in out
    assert "  kernel 6.1.0 | 6.12.0\n" in out and "  commit aaaaaaaa | bbbbbbbb\n" in out
    assert "  machine" not in out
    assert main(["compare", str(old), str(new), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"fact": "kernel", "a": ["6.1.0"], "b": ["6.12.0"]} in found["differences"]
    assert found["interleaved"] is False and found["doubts"] == []


def test_a_dimension_of_one_side_alone_is_compared_with_all_of_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = [_series(1.0, 40, f"a{way}", vmm=way) for way in ("waits", "spawned")]
    first = _store(tmp_path, *ways, day=1)
    plain = dataclasses.replace(_series(1.0, 40, "b"), dimensions={"tier": "prewarm-pool"})
    second = _store(tmp_path, plain, day=2)
    assert main(["compare", str(first), str(second), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["own_dimensions"][0]["vmm"] for row in rows] == ["waits", "spawned"]
    assert [row["own_dimensions"][1] for row in rows] == [{}, {}]
    other = _store(tmp_path, dataclasses.replace(plain, dimensions={"vmm": "forked"}), day=3)
    assert main(["compare", str(first), str(other)]) == 0
    out = capsys.readouterr().out
    assert out.count("A: vmm waits") == out.count("A: vmm spawned") == 1


def test_failed_attempts_and_series_without_samples_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failures = tuple(Failure(at, "no") for at in range(12))
    some = dataclasses.replace(_series(1.0, 40, "b"), failures=failures)
    none = dataclasses.replace(_series(1.0, 1, "c"), metric="rtt", samples=(), failures=failures)
    alone = dataclasses.replace(_series(1.0, 9, "d"), metric="object")
    first = _store(tmp_path, _series(1.0, 40, "a"), alone, day=1)
    second = _store(tmp_path, some, none, day=2)
    assert main(["compare", str(first), str(second)]) == 0
    out = capsys.readouterr().out
    assert "(n 40, 40, failed 0, 12)" in out
    assert "Not compared: 1 series that only A has" in out
    assert "Not compared: of B, rtt full: all 12 attempts failed" in out


def test_one_sample_decides_nothing_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _store(tmp_path, _series(1.0, 40, "a"), day=1)
    second = _store(tmp_path, _series(9.0, 1, "b"), day=2)
    assert main(["compare", str(first), str(second)]) == 0
    assert "too few samples to judge any series" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda series: dataclasses.replace(series, metric="rtt"), "B measured rtt"),
        (lambda series: dataclasses.replace(series, unit="bytes"), "in s in A, and in bytes in B"),
        (
            lambda series: dataclasses.replace(
                series, samples=(), failures=(Failure(0, "no"), Failure(1, "no"))
            ),
            "B has no sample: 2 attempts failed",
        ),
    ],
)
def test_the_reason_why_nothing_is_in_common_is_given(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Series], Series],
    reason: str,
) -> None:
    first = _store(tmp_path, _series(1.0, 9, "a"), day=1)
    second = _store(tmp_path, make(_series(1.0, 9, "b")), day=2)
    assert main(["compare", str(first), str(second)]) == 64
    assert reason in capsys.readouterr().err


def test_a_directory_or_a_missing_file_is_named_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _store(tmp_path, _series(1.0, 9, "a"), day=1)
    assert main(["compare", str(tmp_path), str(first)]) == 64
    assert f"{tmp_path} is a directory" in capsys.readouterr().err
    assert main(["compare", str(first), str(tmp_path / "none.run.json")]) == 64
    assert "no such file" in capsys.readouterr().err
    first.write_bytes(first.read_bytes()[:100])
    assert main(["compare", str(first), str(first)]) == 65


def test_a_configuration_that_measures_nothing_is_refused_before_anything_is_measured(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = ["run", "cold-start", "--results", str(tmp_path), "--interleave", "substrate=noop"]
    for other, reason in (
        ("substrate=noop,tier=durable-pool", "noop has no tier durable-pool"),
        ("substrate=noop,tier=nonsense", "no tier is called 'nonsense'"),
        ("substrate=noop,concurrency=7777", "selects no case of cold-start"),
    ):
        assert main([*run, other]) == 64
        out, err = capfd.readouterr()
        assert reason in err and "%" not in out
    assert list(record.find(tmp_path)) == []


def test_sides_without_common_series_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _store(tmp_path, _series(1, 9, "a"), day=1)
    throughput = Series("throughput", "bytes/s", "higher", {}, "closed", (), [1e9] * 9)
    second = _store(tmp_path, throughput, day=2)
    assert main(["compare", str(first), str(second)]) == 64
    assert "no series in common" in capsys.readouterr().err


def test_interleaved_runs_alternate_and_record_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arms = ["COPPICE_ARM=one,substrate=noop", "COPPICE_ARM=two,substrate=noop"]
    argv = ["run", "cold-start", "--tier", "durable-prewarm-pool", "--concurrency", "1"]
    assert main([*argv, "--results", str(tmp_path), "--rounds", "2", "--interleave", *arms]) == 0
    out = capfd.readouterr().out
    assert "coppice compare interleave=" in out and "(2 rounds" in out
    turns = []
    for path in record.find(tmp_path):
        made = record.load(path)
        if made.series[0].dimensions.get("vmm") in (None, "waits"):
            turns.append((made.command.env["COPPICE_ARM"], selection.interleaving(made)))
    turns.sort(key=lambda turn: (turn[1] or ("", "", 0))[2])
    assert len(turns) == 4
    assert {arm: {turn[1] for name, turn in turns if turn and name == arm} for arm, _ in turns} == {
        "one": {"a"},
        "two": {"b"},
    }


@pytest.mark.parametrize("arm", ["tier", "colour=red", "vmm=spawned"])
def test_an_unknown_configuration_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arm: str
) -> None:
    argv = ["run", "cold-start", "--results", str(tmp_path), "--interleave", arm, "tier=full"]
    assert main(argv) == 64
    assert "--interleave" in capsys.readouterr().err


def test_a_ratio_to_zero_is_null_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zero = dataclasses.replace(_series(1.0, 6, "a"), samples=(0.0,) * 6)
    old, new = _store(tmp_path, zero, day=1), _store(tmp_path, _series(1.0, 6, "b"), day=2)
    assert main(["compare", str(old), str(new), "--json"]) == 1

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    (row,) = json.loads(capsys.readouterr().out, parse_constant=refuse)["rows"]
    assert row["ratio"] == {"value": None, "low": None, "high": None}
