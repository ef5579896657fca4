"""A sandbox that takes all it can get: it is bounded, and its neighbour hardly feels it.

The bombs run with small limits; the neighbour starts a process again and again meanwhile.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import cast

import pytest

from harness.errors import SandboxError
from harness.host import cgroups
from harness.host.run import Run, cache_folder
from harness.sandbox.identity import allocate
from harness.sandbox.oci import OciSubstrate
from harness.sandbox.oci.config import Limits
from harness.sandbox.protocol import Sandbox, Substrate, Template, Tier, load
from tests.isolation.conftest import INSIDE

SMALL = Limits(memory=48 << 20, pids=24, cpus=0.2)
TRIES = 4
"""Pairs of quiet and bombed; the host is shared with whoever else is at work."""
GOAL, BOUND = 2, 10
"""Of the neighbour's p99 against its quiet value. The goal is met in most runs and missed in others
(4 to 6 were seen); a neighbour must never stand still.
"""
STARTS = 150
MORE = 1.25
"""Of its processors, what a bomb may have taken: the kernel charges overdrafts a period later."""


def _p99(sandbox: Sandbox) -> float:
    times = []
    for _ in range(STARTS):
        began = time.perf_counter()
        assert sandbox.first_exec("word").stdout == b"word\n"
        times.append(time.perf_counter() - began)
    return sorted(times)[int(STARTS * 0.99) - 1]


def _cpu_seconds(run: Run, id: str) -> float:
    """CPU time that all processes of a container have had."""
    found, group = cgroups.find(), f"{cgroups.group_of(run)}/{id}"
    if found.version == 1:
        return int((found.mounts["cpuacct"] / group / "cpuacct.usage").read_text()) / 1e9
    stat = (found.mounts["cpu"] / group / "cpu.stat").read_text().split()
    return int(stat[stat.index("usage_usec") + 1]) / 1e6


@pytest.fixture(params=["oci", "qemu"])
def pair(
    request: pytest.FixtureRequest, run: Run, program: bytes
) -> Iterator[tuple[str, Sandbox, Sandbox]]:
    """The kind, one that will explode, and its neighbour."""
    if os.geteuid() != 0:
        pytest.skip("sandboxes that are attacked are made by root")
    kind: str = request.param
    if kind == "oci" and cgroups.find().unlimited:
        pytest.skip(f"this host cannot limit {', '.join(cgroups.find().unlimited)}")
    with ExitStack() as stack:
        made = []
        for limits in (SMALL, Limits()):
            made_by = OciSubstrate(limits=limits) if kind == "oci" else load("qemu")
            substrate = cast("Substrate[Template]", made_by)
            tier = Tier.FULL if kind == "oci" else Tier.DURABLE_POOL
            template = substrate.prepare(run, cache_folder(), tier)
            sandbox = substrate.launch(run, template, tier, allocate(run.leases, run.id))
            stack.callback(sandbox.destroy)
            sandbox.awaken(60)
            sandbox.adopt_identity()
            made.append(sandbox)
        made[0].agent.write_file(INSIDE, program, 0o755)
        yield kind, made[0], made[1]


@pytest.mark.parametrize("bomb", ["fork_bomb", "memory_bomb"])
def test_a_bomb_is_bounded_and_its_neighbour_hardly_feels_it(
    pair: tuple[str, Sandbox, Sandbox], bomb: str, run: Run
) -> None:
    kind, bad, neighbour = pair
    _p99(neighbour)
    stop = threading.Event()

    def explode() -> None:
        while not stop.is_set():
            try:
                bad.agent.run([INSIDE, bomb], timeout_s=1)
            except SandboxError:
                return

    ratios = []
    for _ in range(TRIES):
        quiet = _p99(neighbour)
        stop.clear()
        thread = threading.Thread(target=explode)
        thread.start()
        time.sleep(0.3)
        began, had = time.perf_counter(), _cpu_seconds(run, bad.id) if kind == "oci" else 0.0
        ratios.append(_p99(neighbour) / quiet)
        if kind == "oci":
            time.sleep(0.3)  # many of the periods in which its time is counted
            share = (_cpu_seconds(run, bad.id) - had) / (time.perf_counter() - began)
            assert share <= SMALL.cpus * MORE, f"it had {share:.2f} processors"
        stop.set()
        thread.join()
        if ratios[-1] <= GOAL:
            break
    print(f"{kind} {bomb}: p99 while it goes off, in quiet ones: {ratios}")
    assert min(ratios) <= BOUND, ratios
