"""Keeps to the limits that the user sets for a service: sandboxes at once, and creations a second.

A wait for the second happens before a request's clock starts. More sandboxes at once are refused:
waiting for one to end might last for ever, and the plan should have known.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from harness.endpoints.settings import Limits
from harness.errors import LimitReached


class Pace:
    """Of one client. `limits` are None for a gateway of our own."""

    def __init__(self, limits: Limits | None) -> None:
        self._limits = limits
        self._under_way = 0
        if limits:
            # In any window of `_window_s` at most so many begin.
            self._many = max(1, int(limits.most_per_second))
            self._window_s = self._many / limits.most_per_second
            self._begun: deque[float] = deque(maxlen=self._many)

    async def wait(self, alive: int) -> None:
        """Return when one more creation may begin; `done` must follow. Raises LimitReached."""
        if self._limits:
            if alive + self._under_way >= self._limits.most_sandboxes:
                raise LimitReached(
                    f"more than {self._limits.most_sandboxes} sandboxes at once are not allowed",
                    hint="allow more: --most-sandboxes N",
                )
            self._under_way += 1
            try:
                await self._turn()
            except BaseException:
                self._under_way -= 1
                raise
        else:
            self._under_way += 1

    def done(self) -> None:
        """The creation has ended, well or not."""
        self._under_way -= 1

    async def _turn(self) -> None:
        now = time.monotonic()
        at = now
        if len(self._begun) == self._many:
            at = max(now, self._begun[0] + self._window_s)
        self._begun.append(at)  # taken before the wait, so that others line up behind
        if at > now:
            await asyncio.sleep(at - now)
