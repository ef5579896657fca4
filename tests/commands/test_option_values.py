"""Values of options that make no sense are refused with the option's name and the usage."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.measure.record import find

PATHS = [
    ("run", "--results"), ("compare", "--results"), ("site", "--results"), ("site", "--out"),
    ("export", "--results"), ("export", "--out"), ("export", "--pyperf"), ("chart", "--out"),
    ("chart", "--results"), ("gateway", "--state"), ("archive", "--results"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "option"), PATHS)
@pytest.mark.parametrize("value", ["", "a\0b"])
def test_a_path_that_names_nothing_is_refused(
    command: str, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([command, f"{option}={value}"])
    shown = capsys.readouterr().err
    assert end.value.code == 64 and f"argument {option}: " in shown
    assert shown.startswith(f"usage: coppice {command} ")


@pytest.mark.parametrize(
    "argv",
    [
        ["site", "--port", "65536"], ["site", "--port=-1"], ["gateway", "--port", "70000"],
        ["gateway", "--pool=-1"], ["gateway", "--connections", "1"], ["gateway", "--disk", "1g"],
        ["gateway", "keys", "--rate", "nan"], ["gateway", "keys", "--rate", "0"],
        ["gateway", "keys", "--sandboxes=-1"], ["run", "cold-start", "--concurrency", "9" * 5000],
        ["run", "cold-start", "--rounds", "\N{SUPERSCRIPT TWO}"],
    ],
)  # fmt: skip
def test_a_number_out_of_its_bounds_is_refused(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 64
    assert "Traceback" not in (shown := capsys.readouterr().err) and "is not a " in shown


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["density", "--n", "8,abc"], "--n 8,abc: 'abc' is not a number from 1 on"),
        (["density", "--n", "8,,9"], "--n 8,,9: '' is not a number from 1 on"),
        (["density", "--n", ""], "'' is not a number from 1 on"),
        (["density", "--sharing", "privat"], "'privat' is unknown\n  known: private, mapped"),
        (["compare", "--n", "x"], "--n: 'x' is not a number from 1 on"),
        (["compare", "--visits", "0"], "--visits: '0' is not a number from 1 on"),
        (["policy-churn", "--rule-sets", "1,-2"], "'-2' is not a number from 1 on"),
        (["policy-enforcement", "--rate", "1,2"], "--rate 1,2: takes one number"),
        (["kill-storm", "--seed", "x"], "'x' is not a number from 0 on"),
    ],
)
def test_an_option_of_a_rig_is_refused_by_its_name(
    argv: list[str],
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", *argv]) == 64
    assert shown in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "clean", "export", "compare", "gateway", "doctor"])
def test_the_usage_shown_is_that_of_the_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = {"compare": ["a", "b"], "export": ["--csv"]}.get(command, [])
    with pytest.raises(SystemExit) as end:
        cli.main([command, *argv, "--nope"])
    assert end.value.code == 64
    assert capsys.readouterr().err.startswith(f"usage: coppice {command} ")


@pytest.mark.parametrize(
    "argv",
    [["export", "--csv"], ["chart", "cold-start", "--out", "x.svg"]],
    ids=["export", "chart"],
)
def test_damaged_records_alone_are_a_damaged_input(
    argv: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    record = tmp_path / "results" / "host" / "20260101T000000Z-00000000.cold-start.run.json"
    record.parent.mkdir(parents=True)
    record.write_text("{", encoding="utf-8")
    assert list(find(tmp_path / "results"))
    assert cli.main(argv) == 65
    assert record.name in capsys.readouterr().err
