"""Keeps what explains a failure: a pytest plugin beside the rigs' and tests' own.

When a test fails, or a rig's record says that something it measured did, the logs of the sandboxes
that the test has used, the kernel's new lines and the run's journal are copied to a directory of
the run (harness/paths.py `failures_directory`), which is named at the end. A test that ends well
leaves nothing. A session without a run, such as another project's, is left alone.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.command_log import redacted
from harness.host import evidence
from harness.host.evidence import BLOCK, Held
from harness.host.run import Run
from harness.measure.provenance import utc_now
from harness.measure.system import KernelLines, System
from harness.paths import failures_directory
from harness.rig.recorder import RigRun

NAME = "coppice-evidence"
"""Of the plugin among pytest's."""
RUN_LIMIT = 64 << 20
"""Bytes that one run may leave."""
RUNS = 20
"""Runs that are kept; when another one fails the oldest goes."""
ABOUT, KERNEL = "about.txt", "kernel.log"
_RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")


@dataclass
class _Test:
    """One test under way: what of it failed, and the logs that were there then."""

    began: str = field(default_factory=utc_now)
    failed: list[str] = field(default_factory=list)
    living: dict[str, bytes] = field(default_factory=dict)


class Evidence:
    """Of one session; collects from the moment that its run is opened."""

    def __init__(self) -> None:
        self._base = failures_directory()  # before tests name another one for their children
        self._run: Run | None = None
        self._run_id = ""
        self._held: Held | None = None
        self._kernel: KernelLines | None = None
        self._test = _Test()
        self._room = RUN_LIMIT
        self._number = 0
        self._kept: Path | None = None
        self._not_kept = ""

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Hold what sandboxes of this process leave until the block ends and the test is judged."""
        with System().new_kernel_lines() as self._kernel, evidence.collect() as self._held:
            try:
                yield
            finally:
                self._run = None

    def opened(self, run: Run) -> None:
        self._run, self._run_id = run, run.id

    # pytest's hooks.

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judge a test once its fixtures have taken their sandboxes down."""
        self._test = _Test()
        if self._kernel:
            self._kernel.mark()
        result = yield
        left = self._held.take() if self._held else []
        if self._run_id and self._test.failed and (left or "run" in _fixtures(item)):
            try:
                self._keep(item, left)
            except OSError as error:
                self._not_kept = f"{error.filename or self._base}: {error.strerror}"
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        made = getattr(item, "funcargs", {}).get("rig_run")
        if report.failed:
            self._see(f"{report.when} failed\n\n{report.longreprtext}")
        elif report.when == "call" and isinstance(made, RigRun) and made.failed:
            self._see("\n".join(("samples of the record failed", *made.doubts)))
        if report.when == "call" and isinstance(made, RigRun) and self._test.failed:
            self._test.failed.append(f"the run of the rig: {made.run_id}")
        return report

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._kept:
            terminalreporter.write_line(f"kept: {self._kept}")
        if self._not_kept:
            terminalreporter.write_line(f"what explains a failure was not kept: {self._not_kept}")

    # What is kept.

    def _see(self, failure: str) -> None:
        """Note a failure; the logs are read now, as its sandboxes may still be there."""
        self._test.failed.append(failure)
        if self._run:
            self._test.living |= dict(evidence.living(self._run))

    def _keep(self, item: pytest.Item, left: list[tuple[str, bytes]]) -> None:
        self._number += 1
        files = _named_apart(left, self._test.living)
        if self._kernel and (lines := self._kernel.read()):
            files[KERNEL] = "\n".join(lines).encode()
        about = [
            f"test: {item.nodeid}",
            f"run: {self._run_id}",
            f"from {self._test.began} to {utc_now()}",
            *self._test.failed,
        ]
        files = {ABOUT: "\n\n".join(about).encode(), **files}
        if self._kept is None:
            self._make_room()
        name = re.sub(r"[^\w.-]+", "-", item.name)[:80].strip("-")
        directory = self._base / self._run_id / f"{self._number:02}-{name}"
        directory.mkdir(parents=True, mode=0o700)
        self._kept = directory.parent
        for name, content in files.items():
            data = redacted(content.decode(errors="replace")).encode()[-evidence.FILE_LIMIT :]
            self._room -= max(len(data), BLOCK)
            if self._room < 0:
                self._not_kept = f"the rest, as a run leaves {RUN_LIMIT >> 20} MiB at most"
                return
            (directory / name).write_bytes(data)

    def _make_room(self) -> None:
        """Remove the oldest runs, so that with this one there are as many as are kept."""
        runs = sorted(
            one for one in self._base.glob("*") if _RUN_ID.fullmatch(one.name) and one.is_dir()
        )
        for oldest in runs[: max(0, len(runs) - RUNS + 1)]:
            shutil.rmtree(oldest, ignore_errors=True)


def _fixtures(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


def _named_apart(left: list[tuple[str, bytes]], living: Mapping[str, bytes]) -> dict[str, bytes]:
    """All logs by name, numbered where several have the same one: names of sandboxes are reused.

    What was read of a log while its sandbox lived is left out where the whole log was held later.
    """
    read_early = [
        (name, content)
        for name, content in living.items()
        if not any(name == other and whole.startswith(content) for other, whole in left)
    ]
    files: dict[str, bytes] = {}
    for name, content in [*left, *read_early]:
        stem, dot, suffix = name.rpartition(".")
        number, free = 1, name
        while free in files:
            number += 1
            free = f"{stem}.{number}{dot}{suffix}"
        files[free] = content
    return files


def of_session(config: pytest.Config) -> Evidence:
    """The session's own."""
    plugin = config.pluginmanager.getplugin(NAME)
    assert isinstance(plugin, Evidence)
    return plugin
