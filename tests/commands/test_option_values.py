"""Values of options that make no sense are refused with the option's name and the usage."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from harness import cli, option_types
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


@pytest.mark.parametrize("option", ["--repository", "--address"])
@pytest.mark.parametrize(
    "value",
    [
        "javascript:alert(1)", "not a url", "", "example.org", "//example.org", "https://",
        "https://[::1", "https://example.org:99999/", "ftp://example.org/", "file:///etc",
        "https://example.org/\"onclick=", " https://example.org/", "https://example.org/\n",
    ],
)  # fmt: skip
def test_what_is_not_a_web_address_becomes_no_link(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["site", f"{option}={value}", "--out", str(tmp_path / "out")])
    assert end.value.code == 64 and not (tmp_path / "out").exists()
    assert f"argument {option}: {value!r} is not a URL" in capsys.readouterr().err


def test_web_addresses_are_taken() -> None:
    for value in ("http://127.0.0.1:8000", "https://example.org/a?b=c#d", "HTTPS://example.org/"):
        assert option_types.url(value) == value
    assert option_types.directory_url("https://example.org/a") == "https://example.org/a/"
    with pytest.raises(ArgumentTypeError, match="no page lies below"):
        option_types.directory_url("https://example.org/?a")


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["site", "--today", "yesterday"], "argument --today: 'yesterday' is not a date"),
        (["compare", "a", "b", "--alpha", "x"], "argument --alpha: 'x' is not a probability"),
        (["compare", "a", "b", "--relative", "x"], "argument --relative: 'x' is not a difference"),
    ],
)
def test_a_message_says_what_a_value_must_be(
    argv: list[str], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 64 and shown in capsys.readouterr().err


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
