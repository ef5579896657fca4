"""Command lines: what is wrong is refused with the documented code, help says everything, output
may be cut off, and progress begins at its beginning."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness import cli
from harness.rig.exit_code import ExitCode
from harness.rig.progress import Progress
from tests.commands.plugins import loaded_by_rigs
from tests.host.processes import ROOT, coppice

NOOP = ("run", "cold-start", "--substrate", "noop")


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPPICE_RUNTIME", str(tmp_path / "runtime"))


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nope"],
        ["--nope"],
        *([name, "--nope"] for name, _ in cli.modules()),
        ["run", "--all", "--concurrency", "0"],
        ["run", "--all", "--concurrency", "-1"],
        ["run", "--all", "--concurrency", "١"],
        ["run", "--all", "--rounds", "0"],
        ["run", "--all", "--profile", "none"],
        ["compare", "a"],
        ["compare", "a", "b", "--alpha", "much"],
        ["site", "--port", "x"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_refused_with_its_code(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 64
    assert "usage: coppice" in capsys.readouterr().err


def test_a_command_of_another_package_with_a_parser_of_its_own_has_the_same_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def main(options: argparse.Namespace) -> int:
        argparse.ArgumentParser().parse_args(["--nope"])
        return 0

    other: Any = ModuleType("other")
    other.HELP, other.arguments, other.main = "help", lambda parser: None, main
    monkeypatch.setattr(cli, "modules", lambda: iter([("other", other)]))
    with pytest.raises(SystemExit) as end:
        cli.main(["other"])
    assert end.value.code == 64


def test_every_option_of_every_command_has_help_and_names_no_rig_twice() -> None:
    top = cli.parser()
    (commands,) = (
        action for action in top._actions if isinstance(action, argparse._SubParsersAction)
    )
    own = {name for name, module in cli.modules() if module.__name__.startswith("harness.")}
    for name in own:
        for action in commands.choices[name]._actions:
            assert action.help, f"{name} {action.option_strings or action.dest}"
            lists = re.findall(r"\(([a-z0-9-]+(?:, [a-z0-9-]+)*)\)(?=;|$)", action.help)
            rigs = [rig for one in lists for rig in one.split(", ")]
            assert len(set(rigs)) == len(rigs), action.help


@pytest.mark.parametrize("argv", [["--help"], ["run", "--help"], ["doctor"], [*NOOP]])
def test_a_reader_that_has_gone_is_no_error(argv: Sequence[str], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    given = [*argv, "--results", str(tmp_path / "results")] if argv[0] == "run" else argv
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *given],
        cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_a_case_that_does_not_fit_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    done = coppice(
        *NOOP, "--results", str(tmp_path / "results"),
        TEST_FAILS_WITH="memory", **loaded_by_rigs(tmp_path, "tests.commands.failing_rig"),
    )  # fmt: skip
    assert done.returncode == 71, done.stdout
    assert "2 cases: 1000 sandboxes do not fit\n  request at most 3\n" in done.stdout
    assert "--force" not in done.stdout, "only density has it"


@pytest.mark.parametrize("path", ["rigs/test_cold_start.py", str(ROOT / "rigs/test_density.py")])
def test_workers_of_pytest_xdist_are_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    session = ExitCode()
    session.pytest_xdist_node_collection_finished([f"tests/test_other.py::test[{path}]"])
    with pytest.raises(pytest.exit.Exception, match="several processes at once") as refused:
        session.pytest_xdist_node_collection_finished(["x.py::test", f"{path}::test[a::b]"])
    assert refused.value.returncode == 64


class _Terminal:
    isatty = False

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str, flush: bool) -> None:
        self.text += text


class _Item:
    def __init__(self, nodeid: str) -> None:
        self.nodeid, self.name = nodeid, nodeid
        self.funcargs: dict[str, object] = {}


class _Report:
    when, failed, longrepr = "call", False, ("", 0, "Skipped: not here")
    user_properties: Sequence[tuple[str, object]] = ()

    def __init__(self, skipped: bool) -> None:
        self.skipped, self.passed = skipped, not skipped


def test_what_is_skipped_is_no_progress() -> None:
    terminal: Any = _Terminal()
    capture: Any = None
    progress = Progress(terminal, capture)
    items: Any = [_Item(f"test_{number}") for number in range(10)]
    session: Any = argparse.Namespace(items=items)
    progress.pytest_collection_finish(session)
    call: Any = None
    for number, item in enumerate(items):
        progress.pytest_runtest_logstart(item.nodeid)
        reporting = progress.pytest_runtest_makereport(item, call)
        next(reporting)
        report: Any = _Report(skipped=number in (0, 1, 2, 3, 5))
        with pytest.raises(StopIteration):
            reporting.send(report)
    shares = [int(line.split()[0]) for line in terminal.text.splitlines()]
    assert shares == [16, 40, 60, 80, 100]
