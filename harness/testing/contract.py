"""The contract between substrates and rigs, as tests against real sandboxes.

The tests are skipped if the host lacks a requirement of the substrate. They need this package's
pytest plugin, which provides the `run` that owns the sandboxes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.errors import GuestDied, Unsupported, WrongAnswer
from harness.host import leftovers
from harness.host.file_system import entries
from harness.host.identity import allocate
from harness.host.run import VARIABLE, Run
from harness.paths import cache_directory
from harness.procedures.ladder import climb, prove_own_kernel
from harness.sandbox.protocol import (
    Role,
    Sandbox,
    Sharing,
    Substrate,
    Template,
    Tier,
    load,
    registered,
)

TIMEOUT_S = 120.0
PATIENCE_S = 5.0
"""How long processes may take to end once they were told to."""
_OWNER = """
import ctypes, sys, time
from harness.host.identity import allocate
from harness.host.session import open_run
from harness.paths import cache_directory
from harness.sandbox.protocol import Tier, load
substrate, tier = load(sys.argv[1]), Tier(sys.argv[2])
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0, "PR_SET_CHILD_SUBREAPER"
with open_run() as run:
    template = substrate.prepare(run, cache_directory(), tier)
    sandbox = substrate.launch(run, template, tier, allocate(run.leases, run.id))
    sandbox.awaken(120)
    print(run.directory, flush=True)
    time.sleep(600)
"""
"""A process that starts a sandbox, prints its run's directory, and waits to be killed.

What it started stays below it even when its parent ends, so that the test can list all of it.
"""

Launch = Callable[[], Sandbox]


class SubstrateContract:
    """To be inherited by a class named Test..., with `substrate` set to a registered name."""

    substrate: str
    own_names: Sequence[str] = ("hostname", "machine_id")
    """What an agent reports that differs between sandboxes, besides random bytes; fewer names for a
    substrate whose sandboxes share the host's, such as bare processes."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "tier" in metafunc.fixturenames:
            metafunc.parametrize("tier", list(load(self.substrate).tiers), ids=str)

    @pytest.fixture
    def tested(self) -> Substrate[Template]:
        """The substrate; skips the test if this host cannot run it."""
        substrate = load(self.substrate)
        for need in substrate.requirements():
            if not need.satisfied:
                pytest.skip(f"{self.substrate} needs {need.what}; {need.detail}")
        if substrate.role is Role.CONTROL:
            pytest.skip(f"{self.substrate} makes no sandboxes")
        return substrate

    @pytest.fixture
    def launch(self, tested: Substrate[Template], tier: Tier, run: Run) -> Iterator[Launch]:
        """Launches sandboxes in `tier`; they are destroyed with the test."""
        try:
            template = tested.prepare(run, cache_directory(), tier)
        except Unsupported as reason:
            pytest.skip(str(reason))
        with ExitStack() as stack:

            def make() -> Sandbox:
                sandbox = tested.launch(run, template, tier, allocate(run.leases, run.id))
                stack.callback(sandbox.destroy)
                return sandbox

            yield make

    def test_it_declares_its_capabilities(self) -> None:
        substrate = load(self.substrate)
        assert self.substrate in registered()
        assert substrate.name == self.substrate
        assert substrate.tiers and all(isinstance(tier, Tier) for tier in substrate.tiers)
        assert all(isinstance(sharing, Sharing) for sharing in substrate.sharings)
        assert not substrate.sharings or any(tier.restores for tier in substrate.tiers)
        assert isinstance(substrate.role, Role)
        assert set(substrate.not_offered) <= {"first-exec", "first-touch"}
        if compared := substrate.compared:
            assert set(compared.tiers) <= set(substrate.tiers)
            assert compared.fleet is None or compared.fleet in substrate.tiers
        for need in substrate.requirements():
            assert need.satisfied or need.remedy, f"{need.what}: a remedy is required"

    def test_it_climbs_the_ladder(
        self, tested: Substrate[Template], tier: Tier, launch: Launch
    ) -> None:
        """A nonce, a first process and a working set, in this order; its own kernel if and only if
        it claims one."""
        assert tested.memory_per_sandbox(tier) > 0
        without = tested.not_offered
        done = climb(launch, "first-touch", TIMEOUT_S, without)
        assert done.failure is None, done.failure
        assert done.sandbox is not None
        rungs = ("object", "first-reply", "first-exec", "first-touch")
        times = [done.rungs[rung] for rung in rungs if rung not in without]
        assert times == sorted(times) and times[0] > 0
        assert done.sandbox.resumed_at() <= done.start + done.rungs["first-reply"]
        if tested.own_kernel:
            prove_own_kernel(done.sandbox)
        else:
            with pytest.raises(Exception, match="not on one of its own"):
                prove_own_kernel(done.sandbox)

    def test_a_frozen_sandbox_answers_again(self, tier: Tier, launch: Launch) -> None:
        if not tier.waits_in_memory:
            pytest.skip(f"tier {tier} keeps no sandbox in memory")
        sandbox = launch()
        for _ in range(2):
            sandbox.awaken(TIMEOUT_S)
            sandbox.arm()
            sandbox.stop()
        sandbox.awaken(TIMEOUT_S)

    def test_a_wrong_answer_is_refused(self, tier: Tier, launch: Launch) -> None:
        """An answer computed with another key than the host expects must be rejected."""
        if tier is not Tier.FULL:
            pytest.skip("tested in tier full only")
        sandbox = launch()
        sandbox.agent.key = bytes(reversed(range(16)))
        with pytest.raises(WrongAnswer):
            sandbox.awaken(TIMEOUT_S)

    def test_twins_are_distinct(self, tier: Tier, launch: Launch) -> None:
        """Two sandboxes of one template differ before their first process runs."""
        reports = []
        for sandbox in [launch(), launch()]:
            sandbox.awaken(TIMEOUT_S)
            sandbox.adopt_identity()
            reports.append(sandbox.agent.hello())
        for name in ("random", *self.own_names):
            assert reports[0][name] != reports[1][name], f"both have the same {name}"

    def test_destroying_it_releases_its_identity_and_may_be_repeated(
        self, tier: Tier, launch: Launch, run: Run
    ) -> None:
        before, running = _leases(run), _started(run)
        sandbox = launch()
        assert _leases(run) > before, "launching leases an identity"
        sandbox.awaken(TIMEOUT_S)
        process = sandbox.process
        sandbox.destroy()
        sandbox.destroy()
        assert _leases(run) == before
        with pytest.raises(GuestDied):
            sandbox.agent.ping(1.0)
        if process is not None:
            assert not _runs(process.pid)

        def left() -> list[str]:
            return [text for pid, text in _started(run).items() if pid not in running]

        assert _soon_empty(left) == [], "and none of its processes runs any more"

    def test_sigkill_leaves_only_what_clean_finds(
        self, tested: Substrate[Template], tier: Tier, runtime: Path
    ) -> None:
        """After its owner was killed, `coppice clean` finds and removes all of it."""
        try:
            directory, below = self._killed(tier, runtime)
        except Unsupported as reason:
            pytest.skip(str(reason))
        try:
            self._cleaned(runtime, directory, below)
        finally:
            for process in below:
                with contextlib.suppress(psutil.Error):
                    process.kill()

    def _cleaned(self, runtime: Path, directory: Path, below: Sequence[psutil.Process]) -> None:
        left = leftovers.reclaim(runtime)
        assert left, "a killed run has leftovers, and they are found"
        assert leftovers.find(runtime) == [], "after removal, no leftovers are found"
        assert not _marked(directory), "no process of the run is left"
        orphans = _soon_empty(lambda: _running(below))
        assert orphans == [], "nor is a process that does not carry the run"
        assert not any(str(directory) in mount for mount in _mounts())

    @pytest.fixture
    def runtime(self) -> Iterator[Path]:
        """A directory for runs, accessible to all users because a container's root is another user.

        Its name is short because the paths of sockets are limited.
        """
        with tempfile.TemporaryDirectory(prefix="c-", dir="/tmp") as made:
            Path(made).chmod(0o755)
            yield Path(made)

    def _killed(self, tier: Tier, runtime: Path) -> tuple[Path, Sequence[psutil.Process]]:
        """The directory of a run whose owner was killed after its sandbox had answered, and the
        processes that the owner had started."""
        environment = {**os.environ, "COPPICE_RUNTIME": str(runtime)}
        with subprocess.Popen(
            [sys.executable, "-P", "-c", _OWNER, self.substrate, str(tier)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as owner:
            assert owner.stdout and owner.stderr
            directory = owner.stdout.readline().strip()
            below = psutil.Process(owner.pid).children(recursive=True) if directory else []
            owner.send_signal(signal.SIGKILL)
            if not directory:
                error = owner.stderr.read().strip().splitlines() or ["no message"]
                if "Unsupported" in error[-1] or "Missing" in error[-1]:
                    raise Unsupported(error[-1])
                pytest.fail(f"the sandbox did not start: {error[-1]}")
        return Path(directory), below


def _leases(run: Run) -> set[str]:
    """The leases of this run; the directory also holds those of other runs."""
    found = set()
    for lease in entries(run.leases):
        with contextlib.suppress(OSError):  # another run has just released it
            if lease.read_text(errors="replace", encoding="utf-8") == run.id:
                found.add(lease.name)
    return found


def _soon_empty(look: Callable[[], list[Any]]) -> list[Any]:
    """What is still seen after `PATIENCE_S`: a process that is just ending is no leftover."""
    deadline = time.monotonic() + PATIENCE_S
    while (seen := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return seen


def _running(processes: Sequence[psutil.Process]) -> list[int]:
    """The PIDs of those that still run; a reused PID is another process."""
    return [each.pid for each in processes if each.is_running() and _runs(each.pid)]


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _started(run: Run) -> dict[int, str]:
    """Processes that carry the run, or descend from this one; each by its PID, with its name."""
    below = {process.pid for process in psutil.Process().children(recursive=True)}
    found = {}
    for pid in {*below, *_marked(run.directory)} - {os.getpid()}:
        with contextlib.suppress(psutil.Error):
            if _runs(pid):
                found[pid] = f"{pid} {psutil.Process(pid).name()}"
    return found


def _marked(directory: Path) -> list[int]:
    """Processes with this run in their environment; independent of the code under test."""
    mark, found = f"{VARIABLE}={directory}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0") and _runs(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _mounts() -> list[str]:
    return Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
