"""A pool at its limits: no memory, many threads, two processes, a drain under way."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.errors import GuestTimeout, NotEnoughMemory
from harness.host.memory import memory_floor
from harness.sandbox import pool as pools
from harness.sandbox.pool import Pool
from harness.sandbox.protocol import Sandbox, load
from tests.host.fake_launcher import FakeLauncher, fake
from tests.host.processes import ROOT, eventually

THREE_SANDBOXES = """
import json, sys
from harness.host.session import open_run
from harness.paths import cache_directory
from harness.host.identity import allocate
from harness.sandbox.pool import Pool
from harness.sandbox.protocol import Tier, load
qemu, tier = load("qemu"), Tier.DURABLE_PREWARM_POOL
with open_run() as run:
    template = qemu.prepare(run, cache_directory(), tier)
    launch = lambda: qemu.launch(run, template, tier, allocate(run.leases, run.id))
    with Pool(launch, 3, memory_each=qemu.memory_per_sandbox(tier), refill=False) as pool:
        pool.fill()
        said = []
        for _ in range(3):
            sandbox = pool.check_out()
            sandbox.awaken(60)
            inside = sandbox.agent.run(("/bin/sh", "-c", "hostname; cat /etc/machine-id; ip a"))
            who = sandbox.identity
            said.append([str(who.address), who.hostname, who.machine_id, inside.stdout.decode()])
        print(json.dumps(said), flush=True)
        sys.stdin.readline()
"""


def test_one_at_a_time_needs_memory_for_one(
    launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "available_memory", lambda: memory_floor() + (100 << 20))
    with Pool(launcher, 6, memory_each=100 << 20) as pool:
        pool.give_back(pool.check_out(30))
        eventually(lambda: pool.ready == 1)
        with pytest.raises(NotEnoughMemory, match="2 sandboxes"):
            pool.fill(3)


def test_a_pool_that_is_being_drained_hands_out_nothing_that_is_ready(
    launcher: FakeLauncher,
) -> None:
    """It waits for launches under way; what it handed out meanwhile it would destroy in use."""
    pool = Pool(launcher, 2)
    pool.fill()
    launcher.gate.clear()
    out = pool.check_out()
    eventually(lambda: launcher.calls == 3)  # its replacement is under way
    draining = threading.Thread(target=pool.drain)
    draining.start()
    eventually(lambda: pool._closed)
    try:
        assert pool.ready == 1
        assert pool.check_out_now() is None
        with pytest.raises(GuestTimeout, match="was drained"):
            pool.check_out(5)
        pool.put_back(out)
        assert (pool.ready, fake(out).destroyed) == (1, 1), "no one could have it any more"
    finally:
        launcher.gate.set()
        draining.join()
    assert launcher.destroyed == [1] * 3


def test_a_pool_that_exceeds_the_memory_is_refused_before_any_launch(
    launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "available_memory", lambda: memory_floor() + (500 << 20))
    with Pool(launcher, 6, memory_each=100 << 20) as pool:
        with pytest.raises(NotEnoughMemory) as caught:
            pool.fill()
        assert "6 sandboxes of about 100 MiB need 600 MiB" in str(caught.value)
        assert "has 500 MiB available beyond the 1024 MiB that stay free" in str(caught.value)
        assert caught.value.hint == "request at most 5"
        assert launcher.calls == 0
        pool.fill(5)
        assert pool.ready == 5
        monkeypatch.setattr(pools, "available_memory", lambda: 0)
        pool.fill(5)  # it is full, and asks for nothing
        for _ in range(5):
            pool.check_out()
        with pytest.raises(NotEnoughMemory, match="0 MiB available"):
            pool.check_out(10)
        assert launcher.calls == 5


def test_many_threads_get_no_sandbox_twice(launcher: FakeLauncher) -> None:
    got: list[Sandbox] = []
    with Pool(launcher, 10) as pool:
        pool.fill()

        def work() -> None:
            for _ in range(50):
                sandbox = pool.check_out(30)
                got.append(sandbox)
                pool.give_back(sandbox)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 400 and len({id(one) for one in got}) == 400
        eventually(lambda: pool.ready == 10)
    assert set(launcher.destroyed) == {1}


@pytest.mark.skipif(
    not all(need.satisfied for need in load("qemu").requirements()),
    reason="QEMU is not installed: bin/mise run setup",
)
def test_two_processes_with_real_pools_share_no_sandbox(runtime: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", THREE_SANDBOXES],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        for _ in range(2)
    ]
    try:
        every: list[list[str]] = []
        for process in processes:
            assert process.stdout
            every += json.loads(process.stdout.readline())
        assert len(list((runtime / "leases").iterdir())) == 6, "both have theirs at the same time"
        for process in processes:
            process.communicate("end\n", timeout=120)
        assert [process.returncode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for column in zip(*every, strict=True):
        assert len(set(column)) == 6
    for address, hostname, machine_id, inside in every:
        assert hostname in inside and machine_id in inside and f"inet {address}/" in inside
    assert list((runtime / "leases").iterdir()) == []
