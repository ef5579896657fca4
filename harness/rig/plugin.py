"""The pytest plugin: the options of measurements, and the run that owns their sandboxes.

Registered under `pytest11`, so that rigs in any package can use its fixtures.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from harness import command_log, interrupts, option_types, paths
from harness.errors import NotEnoughMemory, PathError, Unsupported
from harness.host import cgroups
from harness.host.run import Run
from harness.host.session import open_run
from harness.rig import evidence, exit_code, progress, recorded, stages
from harness.rig.evidence import Evidence, of_session
from harness.rig.info import RigInfo
from harness.rig.recorder import RigRun, given_options

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)

# So that its failed assertions are explained like those of a test.
pytest.register_assert_rewrite("harness.testing.contract")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(stages)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests() -> Iterator[None]:
    command_log.start()  # before pytest captures stderr
    yield


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Evidence(), evidence.NAME)
    config.pluginmanager.register(exit_code.ExitCode(), exit_code.NAME)
    config.pluginmanager.register(recorded.Recorded(config), recorded.NAME)


def pytest_addoption(parser: pytest.Parser) -> None:
    """All begin with --coppice-: pytest loads this plugin in every project of an environment, whose
    own options, such as --profile, must not meet ours."""
    group = parser.getgroup("coppice")
    group.addoption(
        "--coppice-profile",
        default="quick",
        choices=("smoke", "quick", "full"),
        help="how many samples; smoke: just enough to show that a rig works",
    )
    where = paths.default_results()
    group.addoption(
        "--coppice-results",
        type=option_types.path,
        default=where,
        help=f"where records go ({where})",
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
        "--coppice-concurrency",
        action="append",
        type=option_types.number(1),
        help="only this concurrency",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the cases that --coppice-substrate, -tier and -concurrency exclude, and long rigs
    whose file is not named."""
    names = ("substrate", "tier", "concurrency")
    wanted = {name: config.getoption(f"--coppice-{name}") for name in names}
    kept: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    for item in items:
        case = getattr(getattr(item, "callspec", None), "params", {}).get("case")
        fits = all(
            not values or case is None or getattr(case, name, None) in values
            for name, values in wanted.items()
        ) and not _is_long(item)
        (kept if fits else deselected).append(item)
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = kept


def _is_long(item: pytest.Item) -> bool:
    """Whether an item takes many minutes, and was not asked for by its file's name."""
    rig = getattr(getattr(item, "module", None), "RIG", None)
    if not isinstance(rig, RigInfo) or not rig.long:
        return False
    named = (Path(argument.partition("::")[0]).resolve() for argument in item.config.args)
    return item.config.getoption("--coppice-profile") != "smoke" and item.path not in named


@contextlib.contextmanager
def _skipped_where_unsupported(item: pytest.Item) -> Iterator[None]:
    """Skip what this host cannot do, with the reason and the remedy.

    A request that does not fit its memory is skipped too, but decides the exit code if nothing
    fails. A cache that cannot be written ends the session: every rig needs it.
    """
    try:
        yield
    except Unsupported as reason:
        pytest.skip(f"not measured on this host: {reason}")
    except NotEnoughMemory as refusal:
        if "rig_run" not in getattr(item, "fixturenames", ()):
            raise
        why = exit_code.of_session(item.config).refuse(item, refusal)
        pytest.skip(f"not measured on this host: {why}")
    except OSError as error:
        cache = paths.cache_directory()
        place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str) else None
        if error.errno not in UNWRITABLE or place is None:
            raise
        if not (place.is_relative_to(cache) or cache.is_relative_to(place)):
            raise
        why = f"the cache {cache} cannot be written: {place}: {error.strerror}"
        pytest.exit(f"{why}\n  name another directory: COPPICE_CACHE", PathError.exit_code)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with _skipped_where_unsupported(item):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with _skipped_where_unsupported(item):
        yield


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """The run that everything created in this session belongs to."""
    interrupts.raise_from_now_on()
    kept = of_session(request.config)
    with kept.collecting(), open_run() as opened:
        kept.opened(opened)
        yield opened


@pytest.fixture
def profile(request: pytest.FixtureRequest) -> str:
    name: str = request.config.getoption("--coppice-profile")
    return name


@pytest.fixture
def rig_run(request: pytest.FixtureRequest, profile: str, run: Run) -> Iterator[RigRun]:
    """The run of one rig, which becomes its record."""
    given = given_options(request.config.getoption("--coppice-set"))
    shown = request.config.pluginmanager.getplugin(progress.NAME)
    show = shown.show if isinstance(shown, progress.Progress) else lambda text: None
    tell = shown.tell if isinstance(shown, progress.Progress) else lambda text: print(text)
    results = request.config.getoption("--coppice-results")
    announce = partial(_announce, request.config, run)
    with cgroups.counted(run) as own_cpu_s:
        try:
            yield RigRun(results, profile, given, show, own_cpu_s, announce, tell)
        finally:
            command_log.release()


def _announce(config: pytest.Config, run: Run, stage: str) -> None:
    command_log.flush()
    config.hook.pytest_coppice_stage(stage=stage, run=run)
