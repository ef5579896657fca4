"""Passes durations that a rig has measured to pytest-benchmark, through its public interface.

A cold start is timed from a request to the answer to a nonce, perhaps in many threads at once, and
not around one call. So the rig measures first and delivers afterwards: a timer that returns 0 and
then the duration makes pytest-benchmark keep exactly that sample, one per round, in order.

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
    """The part of pytest-benchmark's fixture that is used."""

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
    """A timer for durations measured elsewhere: it returns 0, and then the duration in seconds.

    For `pytest.mark.benchmark(timer=...)`; pytest-benchmark stores its name.
    """

    def __init__(self) -> None:
        self.__name__ = "STOPWATCH"
        self._shown = 0.0
        self.running = False
        """Whether an interval has begun but not ended."""

    def show(self, seconds: float) -> None:
        """Set the duration of the next interval."""
        self._shown, self.running = seconds, False

    def __call__(self) -> float:
        self.running = not self.running
        return 0.0 if self.running else self._shown


STOPWATCH = Stopwatch()


def deliver(
    benchmark: Benchmark, samples: Sequence[float], stopwatch: Stopwatch = STOPWATCH, **extra: Any
) -> dict[str, Any]:
    """Give pytest-benchmark these samples (seconds), one per round, in order.

    `extra` is added to the benchmark's extra_info, which is returned and may be changed until the
    session ends. With --benchmark-disable nothing is stored. Raises SandboxError when there is no
    sample, ValueError for a sample that is no duration, and UsageError when the test uses another
    timer.
    """
    benchmark.extra_info.update(extra)
    waiting = iter(samples)

    def show_next() -> None:
        # A profiler (--benchmark-cprofile) runs one more round than there are samples.
        stopwatch.show(next(waiting, 0.0))

    first = True

    def target() -> None:
        """Does nothing but check: an error raised here leaves no samples stored."""
        nonlocal first
        if first:
            _check(samples, benchmark.enabled and not stopwatch.running)
        first = False

    benchmark.pedantic(target, setup=show_next, rounds=max(1, len(samples)), iterations=1)
    return benchmark.extra_info


def _check(samples: Sequence[float], timed_by_another: bool) -> None:
    bad = [sample for sample in samples if not (math.isfinite(sample) and sample >= 0)]
    if bad:
        raise ValueError(f"{len(bad)} samples are not durations, the first is {bad[0]}")
    if not samples:
        raise SandboxError(
            "no sample to deliver: every attempt failed",
            hint="the record names each failure with its reason",
        )
    if timed_by_another:
        raise UsageError(
            "pytest-benchmark timed this test itself instead of using the rig's samples",
            hint="mark the test with @pytest.mark.benchmark(timer=STOPWATCH)",
        )
