"""The exit code of a pytest session: that of the error or signal that ended it, not pytest's own.

A pytest plugin beside the rigs' own. Cases without the fixture `rig_run`, such as those of another
project, keep pytest's codes.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from harness.errors import Interrupted
from harness.failures import typed

NAME = "coppice-exit-code"
FAILED = 1
"""A rig failed, and no error of harness/errors.py says why."""


class ExitCode:
    """Collects the codes of one session."""

    def __init__(self) -> None:
        self._failed: set[int] = set()
        self._refused: set[int] = set()
        self._signal: int | None = None

    def refuse(self, code: int) -> None:
        """Note the code of a case that was left out, for the end of a session that is otherwise
        good: the host could measure it if it had more."""
        self._refused.add(code)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed and "rig_run" in getattr(item, "fixturenames", ()):
            known = typed(call.excinfo.value) if call.excinfo else None
            self._failed.add(known.exit_code if known else FAILED)
        return report

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        if isinstance(excinfo.value, Interrupted):
            self._signal = excinfo.value.exit_code

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._signal is not None:
            session.exitstatus = self._signal
        elif session.exitstatus == pytest.ExitCode.TESTS_FAILED and len(self._failed) == 1:
            (session.exitstatus,) = self._failed
        elif session.exitstatus == pytest.ExitCode.OK and self._refused:
            session.exitstatus = min(self._refused)


def of_session(config: pytest.Config) -> ExitCode:
    """The session's own."""
    plugin = config.pluginmanager.getplugin(NAME)
    assert isinstance(plugin, ExitCode)
    return plugin
