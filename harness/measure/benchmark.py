"""Durations that we measured ourselves, handed to pytest-benchmark through its public interface.

The clock of a cold start runs from a request to a nonce, perhaps in many threads at once: not from
before to after a call. So the rig measures first and delivers then: a timer that reads 0 and then
the duration makes pytest-benchmark keep exactly that sample, one per round, in order.

::

    pytestmark = pytest.mark.benchmark(timer=STOPWATCH)

    def test_cold_start(benchmark):
        samples = [...]                                # measured by the rig
        extra = deliver(benchmark, samples, run_id=run.id)
        extra["record_sha256"] = record.digest(path)   # any time before the session ends
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from harness.errors import SandboxError, UsageError


class Benchmark(Protocol):
    """What is used of pytest-benchmark's fixture."""

    extra_info: dict[str, Any]

    @property
    def enabled(self) -> bool: ...

    def pedantic(
        self,
        target: Callable[[], object],
        *,
        setup: Callable[[], None],
        rounds: int,
        iterations: int,
    ) -> object: ...


class Stopwatch:
    """A timer that shows a duration which was measured elsewhere: read twice, 0 and then it.

    For `pytest.mark.benchmark(timer=...)`; seconds. Its name stands in pytest-benchmark's file.
    """

    def __init__(self) -> None:
        self.__name__ = "STOPWATCH"
        self._shown = 0.0
        self.running = False
        """Whether an interval has begun and not ended."""

    def show(self, seconds: float) -> None:
        """What the next interval shall show."""
        self._shown, self.running = seconds, False

    def __call__(self) -> float:
        self.running = not self.running
        return 0.0 if self.running else self._shown


STOPWATCH = Stopwatch()


def deliver(
    benchmark: Benchmark, samples: Sequence[float], stopwatch: Stopwatch = STOPWATCH, **extra: Any
) -> dict[str, Any]:
    """Give pytest-benchmark these samples (seconds), one per round, in order.

    `extra` goes to the benchmark's extra_info, which is returned and may be added to until the
    session ends. With --benchmark-disable nothing is kept and nothing fails. Raises SandboxError
    when there is no sample, UsageError when the test's timer is another.
    """
    benchmark.extra_info.update(extra)
    waiting = iter(samples)

    def show_next() -> None:
        # A profiler (--benchmark-cprofile) asks for one round more than there are samples.
        stopwatch.show(next(waiting, 0.0))

    first = True

    def target() -> None:
        """Does nothing: all work was done before. What is refused here leaves no samples."""
        nonlocal first
        if first:
            _check(samples, benchmark.enabled and not stopwatch.running)
        first = False

    benchmark.pedantic(target, setup=show_next, rounds=max(1, len(samples)), iterations=1)
    return benchmark.extra_info


def _check(samples: Sequence[float], timed_by_another: bool) -> None:
    bad = [one for one in samples if not (math.isfinite(one) and one >= 0)]
    if bad:
        raise ValueError(f"{len(bad)} samples are no durations, the first is {bad[0]}")
    if not samples:
        raise SandboxError(
            "no sample to deliver: every attempt failed",
            hint="the record names each failure with its reason",
        )
    if timed_by_another:
        raise UsageError(
            "pytest-benchmark timed this test itself instead of taking our samples",
            hint="mark the test: @pytest.mark.benchmark(timer=STOPWATCH)",
        )
