"""The progress that `coppice run` shows: a line for each measurement.

A pytest plugin (`-p harness.rig.progress`); pytest itself runs quietly. Nothing is written during a
measurement: its line begins before and ends after. Skipped cases are counted by reason at the end.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Generator

import pytest
from _pytest.capture import CaptureManager  # pytest exports no name of its type

from harness import interrupts, terminal
from harness.errors import (
    DiskFull,
    EndpointFailed,
    HostError,
    Interrupted,
    PathError,
    UsageError,
)
from harness.failures import typed
from harness.measure.quantity import show, show_interval
from harness.measure.record import Series
from harness.measure.statistics import summarise
from harness.rig import exit_code
from harness.rig.info import RigInfo
from harness.rig.recorder import RigRun

NAME = "coppice-progress"
"""The plugin's name in pytest."""
ID_WIDTH, CASE_WIDTH = 18, 37


def headline(series: Series) -> str:
    """The main figure of a measurement: metric, median, interval, number of samples."""
    median = summarise(series.samples).median
    bounds = show_interval(median, series.unit)
    failed = f", {len(series.failures)} failed" if series.failures else ""
    return (
        f"{series.metric:15} {show(median, series.unit):>10}  "
        f"{f'({bounds})' if bounds else '':15} n={len(series.samples)}{failed}"
    )


class Progress:
    """Writes the lines of one session, each with the share of its cases that are done."""

    def __init__(self, terminal: pytest.TerminalReporter, capture: CaptureManager) -> None:
        self._terminal = terminal
        self._capture = capture
        self._items: dict[str, pytest.Item] = {}
        self._done = 0
        self._skipped = 0
        self._broken = False
        self._began = 0.0
        self._case = ""
        self._shown = 0
        self._unmeasured: Counter[str] = Counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._items = {item.nodeid: item for item in session.items}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        item = self._items[nodeid]
        self._began = time.monotonic()
        rig = getattr(getattr(item, "module", None), "RIG", None)
        _, bracket, case = item.name.partition("[")
        name = rig.id if isinstance(rig, RigInfo) else item.name
        self._case = f"{name:{ID_WIDTH}} {case[:-1] if bracket else '':{CASE_WIDTH}} "
        self._write(self._line() if self._terminal.isatty else "")

    def _share(self) -> int:
        """The percentage of cases that are done. A skipped one is no progress; which are skipped is
        known only when their turn comes."""
        return 100 * self._done // max(1, len(self._items) - self._skipped)

    def _line(self) -> str:
        return f"{self._share():3} %  {self._case}"

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Let pytest count the outcome without writing its letter."""
        if report.when == "call" or not report.passed:
            return ("failed" if report.failed else str(report.outcome)), "", ""
        return "", "", ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        known = typed(call.excinfo.value) if report.failed and call.excinfo else None
        if isinstance(known, EndpointFailed | HostError | UsageError | DiskFull | PathError):
            report.longrepr = str(known)  # nothing here is defective: a traceback helps no user
        if report.when == "call" or (report.when == "setup" and not report.passed):
            self._skipped += report.skipped
            self._done += not report.skipped
            rig_run = getattr(item, "funcargs", {}).get("rig_run")
            self._end(report, rig_run if isinstance(rig_run, RigRun) else None)
        return report

    def show(self, text: str) -> None:
        """Show the progress of the current measurement: in its line, or below if not a terminal."""
        with self._capture.global_and_fixture_disabled():
            tty = self._terminal.isatty
            self._write(f"\r\033[K{self._line()}{text}" if tty else f"{'':7}{text}\n")

    def tell(self, text: str) -> None:
        """Show a line that stays, above that of the current measurement if there is one."""
        with self._capture.global_and_fixture_disabled():
            line = self._line() if self._terminal.isatty else ""
            before = "\r\033[K" if self._terminal.isatty else ""
            self._write(f"{before}{text}\n{line}")

    def _end(self, report: pytest.TestReport, rig_run: RigRun | None) -> None:
        """Complete the line of a case; remove it if the case was skipped."""
        took = time.monotonic() - self._began
        if report.skipped:
            reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else "skipped")
            why = reason.removeprefix("Skipped: ").removeprefix("not measured on this host: ")
            self._unmeasured[why if self._refused(report) else why.partition("\n")[0]] += 1
            self._write("\r\033[K" if self._terminal.isatty else "")
        else:
            figure = rig_run.headline if rig_run else None
            result = "FAILED" if report.failed else headline(figure) if figure else "measured"
            start = f"\r\033[K{self._line()}" if self._terminal.isatty else self._line()
            self._shown = self._share()
            self._write(f"{start}{result:54} {took:5.0f} s\n")
            for doubt in rig_run.doubts if rig_run else ():
                self._write(f"{'':7}suspect: {doubt}\n")
        self._case = ""

    def pytest_sessionfinish(self) -> None:
        if self._case:  # interrupted
            self._write("\n")
        elif self._done and self._shown < self._share():
            self._write(f"{self._share():3} %  no other case was measured\n")
        if self._unmeasured:
            self._write("\nNot measured:\n")
        for why, count in self._unmeasured.items():
            self._write(f"  {count} case{'s' if count > 1 else ''}: {why}\n")

    @staticmethod
    def _refused(report: pytest.TestReport) -> bool:
        """Whether it was the host's memory that did not suffice: the hint tells what does."""
        return any(name == exit_code.REFUSED for name, _ in report.user_properties)

    def _write(self, text: str) -> None:
        if self._broken:
            return
        try:
            self._terminal.write(text, flush=True)
        except OSError as error:
            # The reader, such as `head`, has gone, or the disk is full: everything is taken down.
            self._broken = True
            terminal.discard_output()
            if isinstance(error, BrokenPipeError):
                raise Interrupted(signal.SIGPIPE) from None
            known = typed(error)
            pytest.exit(str(known or error), known.exit_code if known else exit_code.FAILED)


def pytest_configure() -> None:
    """End this process in order on signals, from before its run is opened."""
    interrupts.raise_from_now_on()
    terminal.degrade()


def pytest_sessionstart(session: pytest.Session) -> None:
    interrupts.repeat_lost()  # pytest has put a hook of its own in place meanwhile
    terminal = session.config.pluginmanager.getplugin("terminalreporter")
    if not isinstance(terminal, pytest.TerminalReporter):
        raise UsageError(
            "harness.rig.progress needs pytest's terminal reporter, which is disabled",
            hint="leave out -p no:terminal, or -p harness.rig.progress",
        )
    capture = session.config.pluginmanager.getplugin("capturemanager")
    session.config.pluginmanager.register(Progress(terminal, capture), NAME)
