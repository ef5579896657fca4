"""How fast a pool launches when its workers have all they can do, from when its launches end.

The time of a launch says little about that: launches that run at once share the processors with
each other and with the sandboxes that callers have already.
"""

from __future__ import annotations

from collections import deque

from harness.host.cpus import usable

NEWEST = 0.2
"""The weight of the newest launch in the mean of how long one takes."""
ROUNDS = 4
"""Launches of each worker that the interval is the mean of."""


class LaunchRate:
    """The launches of one pool with so many workers. Its pool calls it with its lock held."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._launch_s = 0.0
        """The mean time of a launch lately; 0 before the first."""
        self._ends: deque[float] = deque(maxlen=ROUNDS * workers + 1)
        """When launches ended, since when all workers are busy."""
        self._interval_s: float | None = None

    def note(self, began: float, ended: float, *, busy: bool) -> None:
        """A launch has succeeded. `busy`: others were wanted that occupy all workers."""
        weight = NEWEST if self._launch_s else 1.0
        self._launch_s += weight * (ended - began - self._launch_s)
        if not busy:
            self._ends.clear()
            return
        self._ends.append(ended)
        intervals = len(self._ends) - 1
        # Workers may end at the same time: fewer launches would show a rate that they do not keep.
        if intervals >= self._workers:
            self._interval_s = (max(self._ends) - self._ends[0]) / intervals

    def interrupted(self) -> None:
        """A worker has waited for something else."""
        self._ends.clear()

    @property
    def interval_s(self) -> float:
        """The expected time between two launches' ends while callers wait; 0 before the first.

        Before it was measured, launches are taken to share the processors. What was measured
        during a former storm is corrected by how long launches take now: they end no faster than
        the workers can, and no slower than if they ran one after the other.
        """
        if self._interval_s is None:
            return self._launch_s / min(self._workers, usable())
        return min(max(self._interval_s, self._launch_s / self._workers), self._launch_s)
