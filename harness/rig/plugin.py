"""The pytest plugin: the options of a measurement, and the run that owns its sandboxes.

Registered under `pytest11`, so that rigs of any package find its fixtures.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from harness import paths
from harness.errors import NotEnoughMemory, PathError, Unsupported
from harness.host import cgroups
from harness.host.run import Run
from harness.host.session import open_run
from harness.rig import progress, stages
from harness.rig.recorder import RigRun, given_options

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)

# Its assertions are explained like those of a test.
pytest.register_assert_rewrite("harness.testing.contract")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(stages)


def pytest_addoption(parser: pytest.Parser) -> None:
    """All begin with --coppice-: pytest loads this plugin in every project of an environment, whose
    own options, such as --profile, must not meet ours."""
    group = parser.getgroup("coppice")
    group.addoption(
        "--coppice-profile",
        default="quick",
        choices=("smoke", "quick", "full"),
        help="how many samples; smoke: as few as show that a rig works",
    )
    where = paths.default_results()
    group.addoption(
        "--coppice-results", type=Path, default=where, help=f"where records go ({where})"
    )
    group.addoption(
        "--coppice-set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option that a rig declares (RigInfo.options)",
    )
    group.addoption("--coppice-substrate", action="append", help="only rigs of this substrate")
    group.addoption("--coppice-tier", action="append", help="only this tier")
    group.addoption(
        "--coppice-concurrency", action="append", type=int, help="only this concurrency"
    )


def interruptible() -> None:
    """Let a signal that asks this process to end interrupt it: what the session made is taken down.

    A shell that runs it in the background hands down ignored interrupts.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what --coppice-substrate, --coppice-tier and --coppice-concurrency leave out."""
    names = ("substrate", "tier", "concurrency")
    wanted = {name: config.getoption(f"--coppice-{name}") for name in names}
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        case = getattr(getattr(item, "callspec", None), "params", {}).get("case")
        fits = all(
            not values or case is None or getattr(case, name, None) in values
            for name, values in wanted.items()
        )
        (kept if fits else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@contextlib.contextmanager
def _skipped_where_unsupported() -> Iterator[None]:
    """What this host cannot do is skipped, with the reason and the remedy.

    What was asked for and does not fit its memory ends the session, with the error's exit code; so
    does a cache that cannot be written.
    """
    try:
        yield
    except Unsupported as reason:
        pytest.skip(f"not measured on this host: {reason}")
    except NotEnoughMemory as refusal:
        pytest.exit(str(refusal), returncode=refusal.exit_code)
    except OSError as error:
        cache = paths.cache_directory()
        place = Path(os.fsdecode(error.filename)) if error.filename else None
        if error.errno not in UNWRITABLE or place is None:
            raise
        if not (place.is_relative_to(cache) or cache.is_relative_to(place)):
            raise
        why = f"the cache {cache} cannot be written: {place}: {error.strerror}"
        pytest.exit(f"{why}\n  name another directory: COPPICE_CACHE", PathError.exit_code)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    with _skipped_where_unsupported():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    with _skipped_where_unsupported():
        yield


@pytest.fixture(scope="session")
def run() -> Iterator[Run]:
    """The run that everything created in this session belongs to."""
    interruptible()
    with open_run() as opened:
        yield opened


@pytest.fixture
def profile(request: pytest.FixtureRequest) -> str:
    name: str = request.config.getoption("--coppice-profile")
    return name


@pytest.fixture
def rig_run(request: pytest.FixtureRequest, profile: str, run: Run) -> Iterator[RigRun]:
    """The record in the making of one rig."""
    given = given_options(request.config.getoption("--coppice-set"))
    shown = request.config.pluginmanager.getplugin(progress.NAME)
    say = shown.say if isinstance(shown, progress.Progress) else lambda text: None
    results = request.config.getoption("--coppice-results")
    reached = partial(_announce, request.config, run)
    with cgroups.counted(run) as seconds:
        yield RigRun(results, profile, given, say, seconds, reached)


def _announce(config: pytest.Config, run: Run, stage: str) -> None:
    config.hook.pytest_coppice_stage(stage=stage, run=run)
