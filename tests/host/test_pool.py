"""Pools: with fakes for what would take hundreds of guests, with real ones for two processes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.errors import GuestDied, GuestTimeout, NotEnoughMemory
from harness.host import memory
from harness.sandbox import pool as pools
from harness.sandbox.pool import MAX_FAILURES, Pool


class Fake:
    """A fake sandbox: it counts how often it is destroyed."""

    def __init__(self, number: int) -> None:
        self.id = str(number)
        self.destroyed = 0

    def destroy(self) -> None:
        self.destroyed += 1


class Maker:
    """Launches fakes and remembers them all."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.made: list[Fake] = []
        self.delay_s = delay_s
        self._lock = threading.Lock()

    def __call__(self) -> Fake:
        time.sleep(self.delay_s)
        with self._lock:
            self.made.append(Fake(len(self.made)))
            return self.made[-1]


def _pool(maker: Callable[[], Fake], size: int, **options: object) -> Pool:
    return Pool(maker, size, **options)  # type: ignore[arg-type]


def test_fill_check_out_give_back_drain() -> None:
    maker = Maker()
    with _pool(maker, 3, refill=False) as pool:
        pool.fill()
        assert pool.ready == 3
        one = pool.check_out()
        pool.give_back(one)
        assert maker.made[int(one.id)].destroyed == 1 and pool.ready == 2
        pool.fill()
        assert pool.ready == 3 and len(maker.made) == 4
    assert [fake.destroyed for fake in maker.made] == [1] * 4


def test_what_went_out_is_replaced_in_the_background() -> None:
    maker = Maker()
    with _pool(maker, 2) as pool:
        pool.fill()
        taken = [pool.check_out() for _ in range(6)]
        assert len({one.id for one in taken}) == 6
        deadline = time.monotonic() + 5
        while pool.ready < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert pool.ready == 2
    assert all(fake.destroyed == 1 for fake in maker.made)


def test_an_empty_pool_that_does_not_refill_says_so() -> None:
    with _pool(Maker(), 1, refill=False) as pool, pytest.raises(GuestTimeout, match="is empty"):
        pool.check_out(0.1)


def test_a_pool_that_is_slow_is_waited_for_and_not_for_ever() -> None:
    with _pool(Maker(delay_s=0.3), 1) as pool:
        with pytest.raises(GuestTimeout, match="in time"):
            pool.check_out(0.05)
        assert pool.check_out(5).id


def test_launches_that_keep_failing_surface() -> None:
    attempts: list[int] = []

    def fail() -> Fake:
        attempts.append(1)
        raise GuestDied("no luck")

    with _pool(fail, 1) as pool:
        with pytest.raises(GuestDied, match="no luck"):
            pool.fill()
        with pytest.raises(GuestDied, match="no luck"):
            pool.check_out(10)
        assert len(attempts) >= MAX_FAILURES


def test_draining_while_launching_destroys_what_arrives_late() -> None:
    maker = Maker(delay_s=0.2)
    pool = _pool(maker, 4)
    filler = threading.Thread(target=pool.fill)
    filler.start()
    time.sleep(0.05)
    pool.drain()
    filler.join(5)
    assert not filler.is_alive() and maker.made
    assert all(fake.destroyed == 1 for fake in maker.made)


def test_more_than_memory_allows_is_refused_with_the_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pools, "available_memory", lambda: 3 << 30)
    maker = Maker()
    with _pool(maker, 50, memory_each=100 << 20) as pool:
        with pytest.raises(NotEnoughMemory, match="50 sandboxes of about 100 MiB need 5000") as no:
            pool.fill()
        assert "ask for at most 20" in str(no.value) and no.value.exit_code == 71
        assert maker.made == []
        pool.fill(20)
        assert pool.ready == 20
    assert memory.available_memory() > 0


def test_no_sandbox_is_handed_out_twice_to_many_threads() -> None:
    maker = Maker()
    with _pool(maker, 16) as pool, ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda _: pool.check_out(10).id, range(400)))
    assert len(set(taken)) == 400
    assert all(fake.destroyed == 1 for fake in maker.made)


PROCESS = """
import json, sys
from harness.host.run import cache_folder, open_run
from harness.sandbox.identity import allocate
from harness.sandbox.pool import Pool
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import QemuSubstrate

substrate, tier = QemuSubstrate(), Tier.DURABLE_PREWARM_POOL
with open_run() as run:
    template = substrate.prepare(run, cache_folder(), tier)
    launch = lambda: substrate.launch(run, template, tier, allocate(run.leases, run.id))
    with Pool(launch, 3, refill=False) as pool:
        pool.fill()
        print("FULL", flush=True)
        sys.stdin.readline()
        said = []
        for _ in range(3):
            sandbox = pool.check_out()
            sandbox.awaken(30)
            said.append(sandbox.agent.hello())
        print(json.dumps(said), flush=True)
"""


def test_two_processes_have_pools_of_one_checkpoint_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPPICE_RUNTIME", str(tmp_path))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", PROCESS], **pipes) for _ in range(2)]  # type: ignore[call-overload]
    try:
        for one in both:
            assert one.stdout.readline() == "FULL\n"
        said = [json.loads(one.communicate("go\n", timeout=60)[0]) for one in both]
    finally:
        for one in both:
            one.kill()
            one.wait()
    for what in ("hostname", "machine_id", "mac", "address", "random"):
        assert len({guest[what] for guests in said for guest in guests}) == 6, what
    assert list((tmp_path / "leases").iterdir()) == []
