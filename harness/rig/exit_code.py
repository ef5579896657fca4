"""The exit code of a pytest session: that of the error or signal that ended it, not pytest's own.

A pytest plugin beside the rigs' own. Sessions without a case that uses the fixture `rig_run`, such
as those of another project, keep pytest's codes. Where files go that the session writes at its end
is tried before the first case.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from harness.errors import (
    DiskFull,
    Interrupted,
    LimitTooLow,
    NotEnoughMemory,
    PathError,
    UsageError,
)
from harness.failures import typed
from harness.measure import machine
from harness.measure.storage import make_ready
from harness.rig.discovery import discover
from harness.rig.info import RigInfo

NAME = "coppice-exit-code"
REFUSED = "coppice-refused"
"""Of a case's properties: its request did not fit the host."""
FAILED = 1
"""A rig failed, and no error of harness/errors.py says why."""


class ExitCode:
    """Collects the codes of one session."""

    def __init__(self) -> None:
        self._failed: set[int] = set()
        self._refused: set[int] = set()
        self._signal: int | None = None
        self._internal: int | None = None
        self._measures = False

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Refuse, before anything is measured, places where nothing can be stored."""
        self._measures = any("rig_run" in _fixtures(item) for item in session.items)
        config = session.config
        if not self._measures or config.option.collectonly:
            return
        try:
            make_ready(config.getoption("--coppice-results"), machine.describe(None).id)
            benchmarks = config.getoption("benchmark_json", None)
            if benchmarks is not None:
                _try_file(Path(benchmarks))
        except (DiskFull, PathError) as error:
            pytest.exit(str(error), error.exit_code)

    def refuse(self, item: pytest.Item, error: NotEnoughMemory) -> str:
        """Note the code of a case that was left out, for the end of a session that is otherwise
        good: the host could measure it if it had more. Returns the reason, with what helps."""
        self._refused.add(error.exit_code)
        item.user_properties.append((REFUSED, True))
        rig = getattr(getattr(item, "module", None), "RIG", None)
        forcible = not isinstance(error, LimitTooLow)
        if forcible and isinstance(rig, RigInfo) and "force" in rig.flags:
            return f"{error}, or override with --force"
        return str(error)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed and "rig_run" in _fixtures(item):
            known = typed(call.excinfo.value) if call.excinfo else None
            self._failed.add(known.exit_code if known else FAILED)
        return report

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        if isinstance(excinfo.value, Interrupted):
            self._signal = excinfo.value.exit_code

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Refuse pytest-xdist, whose workers would measure at the same time."""
        files = {str(rig.path) for rig in discover().found.values()}
        if any(str(Path(id.partition("::")[0]).resolve()) in files for id in ids):
            raise _refusal_of_workers()

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        if self._measures and (known := typed(excinfo.value)):
            self._internal = known.exit_code

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            # Of pytest-benchmark, which stores its file only now. All records are stored.
            file = error.filename or session.config.getoption("benchmark_json", None)
            named = OSError(error.errno, error.strerror, str(file)) if file else error
            known = typed(named)
            if not self._measures or known is None:
                raise
            print(f"\ncoppice: {known}", file=sys.stderr)
            session.exitstatus = known.exit_code
        if self._signal is not None:
            session.exitstatus = self._signal
        elif session.exitstatus == pytest.ExitCode.INTERNAL_ERROR and self._internal is not None:
            session.exitstatus = self._internal
        elif session.exitstatus == pytest.ExitCode.TESTS_FAILED and len(self._failed) == 1:
            (session.exitstatus,) = self._failed
        elif session.exitstatus == pytest.ExitCode.OK and self._refused:
            session.exitstatus = min(self._refused)


def _refusal_of_workers() -> Exception:
    error = UsageError(
        "rigs cannot be measured by several processes at once: each would disturb the others",
        hint="leave out -n, or set it to 0",
    )
    return pytest.exit.Exception(str(error), error.exit_code)


def _fixtures(item: pytest.Item) -> Sequence[str]:
    return getattr(item, "fixturenames", ())


def _try_file(path: Path) -> None:
    """Make the directory of a file, and try to write the file. Raises DiskFull or PathError."""
    there = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        raise typed(error) or error from error


def of_session(config: pytest.Config) -> ExitCode:
    """The session's own."""
    plugin = config.pluginmanager.getplugin(NAME)
    assert isinstance(plugin, ExitCode)
    return plugin
