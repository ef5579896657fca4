"""Every reason to distrust a run, simulated, and load by other programs for real."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from harness.host import cgroups
from harness.host.run import Run
from harness.measure import machine, validity
from harness.measure.record import Facts, Failure, Git, Scalar, Series, Validity
from tests.host.processes import eventually
from tests.measure.factory import series

CLEAN = Git("a" * 40, False)
# Two processors for ten seconds, of which our own programs use five.
BEFORE: dict[str, Scalar] = {
    "memory_available_bytes": 2**33,
    "memory_stall_s": 1.0,
    "swap_in_bytes": 4096,
    "swap_out_bytes": 8192,
    "oom_kills": 1,
    "throttle_events": 12,
    "cpu_busy_s": 100.0,
    "cpu_idle_s": 500.0,
    "cpu_steal_s": 3.0,
    "cpu_interrupts_s": 1.0,
    "cpu_kernel_threads_s": 2.0,
    "kernel_warnings": 5,
    "kernel_newest_warning": 280,
    "samepage_merging": "off",
    "huge_pages": "madvise",
    "governor": "performance",
    "boost": True,
    "uptime_s": 1000.0,
}
PASSED: dict[str, float] = {
    "cpu_busy_s": 6.0,
    "cpu_idle_s": 13.5,
    "cpu_steal_s": 0.5,
    "cpu_interrupts_s": 0.2,
    "cpu_kernel_threads_s": 0.3,
    "uptime_s": 10.0,
}


def _after(changes: Facts) -> Facts:
    moved = {name: float(BEFORE[name] or 0) + by for name, by in PASSED.items()}
    return {**BEFORE, **moved, **changes}


def _judge(after: Facts | None = None, before: Facts = BEFORE, git: Git = CLEAN) -> Validity:
    return validity.judge(before, _after(after or {}), 5.0, 10.0, git, [series()])


def test_an_undisturbed_run_is_valid() -> None:
    assert _judge() == Validity("valid", ())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"swap_in_bytes": 4096 + 3 * 2**20}, "the machine swapped: 3.0 MiB came in from swap"),
        ({"swap_out_bytes": 8192 + 2**19}, "the machine swapped: 0.5 MiB came out to swap"),
        ({"oom_kills": 3}, "the kernel ran out of memory and killed 2 processes"),
        ({"oom_kills": 2}, "the kernel ran out of memory and killed 1 process"),
        ({"throttle_events": 13}, "the processor got too hot and was slowed down 1 time"),
        (
            {"kernel_warnings": 7, "kernel_newest_warning": 300},
            "the kernel logged at least 2 new warnings: dmesg --level=emerg,alert,crit,err,warn",
        ),
        (  # the log has wrapped: fewer warnings than before, but a newer one
            {"kernel_warnings": 3, "kernel_newest_warning": 9000},
            "the kernel logged at least 1 new warning: dmesg --level=emerg,alert,crit,err,warn",
        ),
        (
            {"cpu_steal_s": 3 + 1.5, "cpu_idle_s": 512.5},
            "the hypervisor gave 7.5% of our CPU time (1.50 s) to others (the bound is 5%)",
        ),
        (
            {"cpu_busy_s": 108.5, "cpu_idle_s": 511.0},
            "other programs used 15.0% of this machine's CPU time "
            "(3.00 s in 10.0 s; the bound is 10%)",
        ),
        (
            {"memory_available_bytes": 100 * 2**20},
            "only 100 MiB of memory were available after the run, below the floor of 512 MiB",
        ),
        (
            {"memory_stall_s": 1.25},
            "tasks waited for memory during 0.25 s of 10.0 s (the bound is 1%)",
        ),
        ({"governor": "powersave"},
         "the setting governor went from performance to powersave during the run"),
        ({"boost": False}, "the setting boost went from True to False during the run"),
        ({"samepage_merging": "on"},
         "the setting samepage_merging went from off to on during the run"),
        ({"uptime_s": 20.0}, "the machine was restarted during the run"),
    ],
)  # fmt: skip
def test_each_disturbance_makes_a_run_suspect(changes: dict[str, Scalar], reason: str) -> None:
    assert _judge(changes) == Validity("suspect", (reason,))


def test_little_memory_before_the_run_counts_too() -> None:
    found = _judge(before=BEFORE | {"memory_available_bytes": 2**20})
    assert found.reasons == (
        "only 1 MiB of memory were available before the run, below the floor of 512 MiB",
    )


def test_a_dirty_checkout_is_suspect_and_a_missing_one_is_not() -> None:
    found = _judge(git=Git("a" * 40, True))
    assert found.status == "suspect" and "not committed" in found.reasons[0]
    assert _judge(git=Git(None, None)).status == "valid"


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu_steal_s": 3 + 0.9},  # below 5 % of what passed
        {"cpu_busy_s": 107.4, "cpu_idle_s": 512.1},  # others below 10 %
        {"memory_stall_s": 1.09},
        {"memory_available_bytes": validity.MEMORY_FLOOR_BYTES},
        {"kernel_warnings": 3},  # old warnings have left the log, and none is new
        {
            "cpu_busy_s": 112.0,
            "cpu_kernel_threads_s": 8.3,
            "cpu_idle_s": 507.5,
        },  # the kernel's work
    ],
)
def test_changes_within_the_bounds_are_valid(changes: dict[str, Scalar]) -> None:
    assert _judge(changes) == Validity("valid", ())


@pytest.mark.parametrize("name", sorted(BEFORE))
def test_a_fact_that_is_null_or_absent_gives_no_reason(name: str) -> None:
    assert _judge({name: None}).status == "valid"
    assert _judge(before={key: BEFORE[key] for key in BEFORE if key != name}).status == "valid"


def test_a_few_ticks_of_a_short_run_are_not_judged() -> None:
    after = {**BEFORE, "cpu_busy_s": 100.09, "cpu_idle_s": 500.1, "cpu_steal_s": 3.09}
    assert validity.judge(BEFORE, after, 0.0, 0.14, CLEAN, [series()]).status == "valid"
    after |= {"cpu_busy_s": 100.2, "cpu_steal_s": 3.2}
    assert len(validity.judge(BEFORE, after, 0.0, 0.25, CLEAN, [series()]).reasons) == 2


def test_all_reasons_are_reported_together() -> None:
    found = _judge({"oom_kills": 2, "throttle_events": 13, "boost": False}, git=Git("a" * 40, True))
    assert len(found.reasons) == 4


def _failing(count: int, metric: str = "first-exec") -> Series:
    failures = tuple(Failure(index, f"GuestDied: number {index}") for index in range(count))
    return series(metric=metric, samples=(), failures=failures)


def test_a_run_without_samples_has_failed() -> None:
    found = validity.judge(BEFORE, _after({}), 5, 10, CLEAN, [_failing(30), _failing(1, "object")])
    assert found.status == "failed"
    assert "all 30 attempts failed, first with: GuestDied: number 0" in found.reasons[0]
    assert found.reasons[0].startswith("no sample of first-exec (substrate noop, concurrency 1")
    assert "the only attempt failed" in found.reasons[1]


def test_a_run_with_an_empty_series_is_suspect() -> None:
    found = validity.judge(BEFORE, _after({}), 5, 10, CLEAN, [series(), _failing(30)])
    assert found.status == "suspect" and len(found.reasons) == 1


def test_what_is_not_offered_makes_no_run_suspect() -> None:
    lacking = dataclasses.replace(
        _failing(0), failures=[Failure(0, "it has no node", "not-offered")]
    )
    both = dataclasses.replace(lacking, failures=[*lacking.failures, Failure(1, "it broke")])
    measured = series(metric="object", samples=(0.1,))
    fine = validity.judge(BEFORE, _after({}), 5, 10, CLEAN, [measured, lacking])
    assert (fine.status, fine.reasons) == ("valid", ())
    doubted = validity.judge(BEFORE, _after({}), 5, 10, CLEAN, [measured, both])
    assert "no sample of first-exec" in doubted.reasons[0]


def test_a_run_that_measured_nothing_has_failed() -> None:
    assert validity.judge(BEFORE, _after({}), 5, 10, CLEAN, []) == Validity(
        "failed", ("nothing was measured",)
    )
    untried = series(samples=(), failures=())
    found = validity.judge(BEFORE, _after({}), 5, 10, CLEAN, [untried])
    assert found.status == "failed" and "never attempted" in found.reasons[0]


def test_failures_next_to_samples_are_no_disturbance() -> None:
    assert series().failures and _judge().status == "valid"


# Real processes. Each burns a stated CPU time, not a stated time, so that load does not matter.

BURNT_S = 0.4
BURN = f"""
import time
while time.process_time() < {BURNT_S}:
    pass
"""
LIVE_ON = BURN + "print('burnt', flush=True); time.sleep(600)"
GRANDCHILD = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {LIVE_ON!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print("burnt", flush=True)
sys.stdin.readline()
child.kill(); child.wait(); child.stdout.close()
"""
AWAY = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    print(os.getpid(), flush=True)
    {burn}
    os._exit(0)
"""


@contextmanager
def _child(code: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


def _wait_for_line(child: subprocess.Popen[bytes]) -> bytes:
    assert child.stdout is not None
    return child.stdout.readline()


def _burn_elsewhere(seconds: float) -> psutil.Process:
    """A busy process that is not our descendant, like another user's; it ends by itself."""
    burn = f"while time.process_time() < {seconds}: pass"
    with _child(AWAY.format(burn=burn)) as child:
        away = psutil.Process(int(_wait_for_line(child)))
        child.wait()
    return away


def _runs(process: psutil.Process) -> bool:
    """Whether it is running; its new parent may not have reaped it yet."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


# What an interpreter needs to start is ours as well, so only the lower bound is sharp.
def _is_burnt(seconds: float, times: int = 1) -> bool:
    return times * (BURNT_S - 0.03) <= seconds < times * (BURNT_S + 0.6)


def test_a_living_child_is_counted() -> None:
    with validity.OwnCpu() as own, _child(LIVE_ON) as child:
        _wait_for_line(child)
        assert _is_burnt(own.seconds)


def test_a_killed_and_reaped_child_is_counted_once() -> None:
    with validity.OwnCpu() as own:
        with _child(LIVE_ON) as child:
            _wait_for_line(child)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
    assert _is_burnt(own.seconds)


def test_a_killed_child_that_is_not_reaped_is_counted() -> None:
    with _child(LIVE_ON) as child:
        with validity.OwnCpu() as own:
            _wait_for_line(child)
            os.kill(child.pid, signal.SIGKILL)
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert _is_burnt(own.seconds)


def test_grandchildren_are_counted_alive_and_dead() -> None:
    with validity.OwnCpu() as own, _child(GRANDCHILD) as child:
        _wait_for_line(child)
        assert _is_burnt(own.seconds)
        child.communicate(b"\n")
        assert _is_burnt(own.seconds)


def test_a_daemon_is_counted_by_its_control_group(run: Run) -> None:
    with cgroups.counted(run) as seconds:
        if seconds is None:
            pytest.skip("no control group of this host counts processor time for us")
        with validity.OwnCpu(seconds) as own:
            away = _burn_elsewhere(BURNT_S)
            eventually(lambda: not _runs(away), 60)
        burnt = own.seconds
    assert _is_burnt(burnt)
    # After the block this process is in its former group again.
    before = seconds()
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert seconds() == before


def test_cpu_time_before_the_block_is_not_counted() -> None:
    with _child(LIVE_ON) as child:
        _wait_for_line(child)
        with validity.OwnCpu() as own:
            time.sleep(0.05)
        inside = own.seconds
    assert 0 <= inside < 0.2
    assert own.seconds == inside  # fixed once the block has ended
    assert 0.05 <= own.elapsed_s < 60


def test_our_own_work_is_counted() -> None:
    with validity.OwnCpu() as own:
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
    assert 0.1 <= own.seconds < 0.5


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="reads the CPU time of Linux")
def test_another_busy_program_makes_a_run_suspect() -> None:
    # A quarter of the machine's CPUs for a second, above the bound of a tenth.
    busy = max(1, math.ceil((os.cpu_count() or 1) / 4))
    before = machine.state()
    with validity.OwnCpu() as own:
        away = [_burn_elsewhere(1.0) for _ in range(busy)]
        try:
            eventually(lambda: not any(map(_runs, away)), 60)
        finally:
            for process in away:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
    found = validity.judge(before, machine.state(), own.seconds, own.elapsed_s, CLEAN, [series()])
    assert own.seconds < 0.6 * busy  # the start of interpreters, not their work
    assert found.status == "suspect"
    assert any(reason.startswith("other programs used") for reason in found.reasons)
