"""What pytest alone recorded: at its end, each record, where it is, and whether it is valid.

A pytest plugin beside the rigs' own. `coppice run` shows the same in the lines of its progress.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from harness.measure.record import load
from harness.rig import progress
from harness.rig.recorder import RigRun
from harness.rig.summary import emulated_beside_kvm

NAME = "coppice-recorded"
"""The plugin's name in pytest."""


class Recorded:
    """The runs of rigs of one session that stored a record."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._runs: dict[str, RigRun] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        made = getattr(item, "funcargs", {}).get("rig_run")
        if report.when == "call" and isinstance(made, RigRun) and made.record:
            self._runs[made.run_id] = made
        return report

    @pytest.hookimpl(trylast=True)  # below the table of pytest-benchmark
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._runs or self._config.pluginmanager.hasplugin(progress.NAME):
            return
        many = len(self._runs)
        terminalreporter.section(f"{many} record{'s' if many > 1 else ''}")
        for one in self._runs.values():
            terminalreporter.write_line(f"{_shown(one.record)}  {one.status}")
            for doubt in one.doubts:
                terminalreporter.write_line(f"  {one.status}: {doubt}")
        made = [load(one.record) for one in self._runs.values() if one.record]
        for line in emulated_beside_kvm(made):
            terminalreporter.write_line(line)


def _shown(path: Path | None) -> str:
    """The path as the user would type it."""
    assert path
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
