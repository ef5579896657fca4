"""Several generators carry out one storm: from one start, and nothing is sent twice."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CoppiceError, HostError, Interrupted, UsageError
from harness.load import arrivals, fan_out, generator_side
from harness.load.arrivals import Arrival, Schedule
from tests.load import works

generators = pytest.importorskip("harness.load.generators", reason="needs the extra lab")
cluster = pytest.importorskip("harness.load.cluster", reason="needs the extra lab")

SCHEDULE = arrivals.constant(200, 20)
LIMIT_S = 60.0
"""Only a bound against hanging."""


def _opened(
    directory: Path, count: int = 2, scheduler: str | None = None, **settings: float
) -> Any:
    return generators.opened(count, scheduler, dict(os.environ), directory, **settings)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with _opened(tmp_path_factory.mktemp("two")) as opened:
        yield opened


def _with(number: int, kind: str) -> Schedule:
    """A schedule whose arrival of this number kills or stops its generator."""
    entries = list(SCHEDULE.entries)
    entries[number] = Arrival(entries[number].at_s, kind=kind)
    return Schedule("trace", SCHEDULE.rate, tuple(entries))


def _appears(directory: Path, pattern: str, count: int) -> bool:
    deadline = time.monotonic() + LIMIT_S
    while len(list(directory.glob(pattern))) < count:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_clocks_of_one_machine_do_not_differ(two: Any) -> None:
    # They are the same clock, so the measured difference is all error.
    for offset in two.offsets():
        assert abs(offset.seconds) <= offset.uncertainty_s


def test_each_generator_carries_out_its_part_from_one_start(two: Any) -> None:
    parts = two.carry_out(works.quick, fan_out.split(SCHEDULE, 2))
    whole = fan_out.merged(SCHEDULE, parts)
    assert [each.arrival for each in whole.outcome.results] == list(SCHEDULE.entries)
    assert not any(each.reason for each in whole.outcome.results)
    pids = [each.marks["pid"] for each in whole.outcome.results]
    assert pids == pids[:2] * 10 and pids[0] != pids[1]
    first, second = (part.outcome for part in parts)
    error = sum(part.before.uncertainty_s for part in parts)
    assert not isinstance(first, fan_out.Lost) and not isinstance(second, fan_out.Lost)
    assert abs(first.start - second.start) <= 2 * error


def test_sandboxes_are_held_until_those_of_all_generators_are_there(two: Any) -> None:
    shown: list[str] = []
    parts = two.carry_out(works.held, fan_out.split(SCHEDULE, 2), shown.append)
    usable, released = [], []
    for part in parts:
        for each in part.outcome.results:
            due = part.outcome.start + each.arrival.at_s  # one clock: both run on this machine
            usable.append(due + each.marks["usable"])
            released.append(due + each.marks["released"])
    assert min(released) > max(usable)
    assert shown == ["2 generators: all there"]


def test_what_one_part_raises_stops_the_others(two: Any, tmp_path: Path) -> None:
    work = partial(works.failing_or_endless, str(tmp_path))
    with pytest.raises(CoppiceError, match="broken on purpose"):
        two.carry_out(work, fan_out.split(SCHEDULE, 2))
    assert _appears(tmp_path, "*.ended", 1)
    # They are free for more.
    two.carry_out(works.quick, fan_out.split(SCHEDULE, 2))


def test_an_interrupt_stops_all_parts(two: Any, tmp_path: Path) -> None:
    def interrupt(text: str) -> None:
        raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted):
        two.carry_out(partial(works.endless, str(tmp_path)), fan_out.split(SCHEDULE, 2), interrupt)
    assert _appears(tmp_path, "*.ended", 2)


def test_a_part_that_comes_again_is_not_carried_out(tmp_path: Path) -> None:
    """Without a start, which is given once, no request is made."""
    reports: list[dict[str, Any]] = []

    def report(what: dict[str, Any]) -> None:
        reports.append(what)
        if what.get("ready"):
            generator_side.stop("again")

    with pytest.raises(CoppiceError, match="the storm was stopped"):
        generator_side.carry_out(
            "again", 0, partial(works.endless, str(tmp_path)), SCHEDULE, report
        )
    assert {"ready": True} in reports
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def _cluster(directory: Path, *processes: Sequence[str]) -> Iterator[str]:
    """A cluster that is not ours: the address of its scheduler, once these workers are there."""
    distributed = pytest.importorskip("distributed")
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(
            distributed.LocalCluster(
                n_workers=0, processes=False, protocol="tcp://", host="127.0.0.1",
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            )
        )  # fmt: skip
        for argv in processes:
            process = subprocess.Popen(
                (sys.executable, *argv, cluster.scheduler_address, str(directory)),
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        with distributed.Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(len(processes), timeout=LIMIT_S)
        yield cluster.scheduler_address


WORKER = ("-m", generators.MODULE)
FOREIGN = """
import asyncio, sys
sys.modules["harness"] = None  # as if it were not installed
from distributed import Worker

async def serve():
    async with Worker(sys.argv[1], nthreads=1, local_directory=sys.argv[2]) as worker:
        await worker.finished()

asyncio.run(serve())
"""


def test_an_existing_cluster_is_used(tmp_path: Path) -> None:
    with _cluster(tmp_path, WORKER, WORKER) as address:
        with _opened(tmp_path, 2, address) as others:
            parts = others.carry_out(works.quick, fan_out.split(SCHEDULE, 2))
        assert not any(each.reason for each in fan_out.merged(SCHEDULE, parts).outcome.results)
        with pytest.raises(UsageError, match="has 2 workers, not 3"), _opened(tmp_path, 3, address):
            raise AssertionError


def test_a_cluster_without_the_harness_is_refused(tmp_path: Path) -> None:
    with (
        _cluster(tmp_path, ("-c", FOREIGN)) as address,
        pytest.raises(HostError, match="the harness cannot be imported by the cluster"),
        _opened(tmp_path, 1, address),
    ):
        raise AssertionError


def test_a_cluster_of_this_run_is_closed_to_others(
    two: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    address = two.scheduler.replace("tls://", "tcp://")
    with (
        pytest.raises(HostError, match="no scheduler of dask answers"),
        _opened(tmp_path, 1, address),
    ):
        raise AssertionError


def test_a_killed_generator_is_lost_and_its_part_is_not_sent_again(tmp_path: Path) -> None:
    schedule = _with(5, works.VICTIM)  # of generator 2
    with _opened(tmp_path) as opened:
        parts = opened.carry_out(works.held, fan_out.split(schedule, 2))
        whole = fan_out.merged(schedule, parts)
        assert [each.kind for each in whole.outcome.results] == [None, "lost"] * 10
        assert "generator 2 was lost with its 10 arrivals: its process is gone" in whole.doubts
        # It stays lost, and the other one waits for no stage of it.
        again = opened.carry_out(works.held, fan_out.split(SCHEDULE, 2))
        assert [isinstance(part.outcome, fan_out.Lost) for part in again] == [False, True]


def test_a_stopped_generator_is_lost_and_ended(tmp_path: Path) -> None:
    with _opened(tmp_path, 1, silent_s=1.2) as opened:
        (pid,) = opened.process_ids()
        (part,) = opened.carry_out(works.quick, [_with(5, works.STOPPER)])
        assert part.outcome == fan_out.Lost("generator 1", "it has reported nothing for 1.2 s")
        _require_gone([pid])


def test_a_generator_that_is_stopped_before_the_start_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _opened(tmp_path, 1) as opened:
        monkeypatch.setattr(cluster, "ANSWER_S", 0.3)
        (pid,) = opened.process_ids()
        os.kill(pid, signal.SIGSTOP)
        (part,) = opened.carry_out(works.quick, [SCHEDULE])
        assert part.outcome == fan_out.Lost("generator 1", "it did not answer before the start")
        _require_gone([pid])


def _require_gone(pids: Sequence[int]) -> None:
    """Wait until these processes have ended."""
    deadline = time.monotonic() + LIMIT_S
    while any(Path(f"/proc/{pid}/exe").exists() for pid in pids):
        assert time.monotonic() < deadline, "a generator lives on"
        time.sleep(0.05)


def test_a_scheduler_whose_certificates_are_not_known_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(HostError, match="no certificates are known for tls://127"),
        _opened(tmp_path, 1, "tls://127.0.0.1:9"),
    ):
        raise AssertionError


def test_a_scheduler_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 0.3)
    with (
        pytest.raises(HostError, match=r"no scheduler of dask answers at tcp://127\.0\.0\.1:9"),
        _opened(tmp_path, 1, "tcp://127.0.0.1:9"),
    ):
        raise AssertionError


def test_generators_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom harness.load import generators\n"
        "with generators.opened(2, None, dict(os.environ), Path(sys.argv[1])) as opened:\n"
        "    print(*opened.process_ids(), flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen(
        (sys.executable, "-c", code, str(tmp_path)), stdout=subprocess.PIPE
    ) as control:
        assert control.stdout
        pids = [int(text) for text in control.stdout.readline().split()]
        control.kill()
    assert len(pids) == 2
    _require_gone(pids)
