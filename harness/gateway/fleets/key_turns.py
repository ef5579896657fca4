"""Whose turn it is: keys take turns, and within a key who came first is first."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class KeyTurns(Generic[T]):
    """Callers that wait, by key. Not thread-safe."""

    def __init__(self) -> None:
        # The keys in the order of their turns. A key without a caller that waits has no turn.
        self._waiting: dict[str, deque[T]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def ahead(self, key: str) -> int:
        """How many callers have their turn before another one of this key, if no more come."""
        own = len(self._waiting.get(key, ()))
        return own + sum(
            min(len(callers), own + 1) for other, callers in self._waiting.items() if other != key
        )

    def add(self, key: str, caller: T) -> None:
        self._waiting.setdefault(key, deque()).append(caller)

    def remove(self, key: str, caller: T) -> None:
        """It waits no more; nothing if it has had its turn."""
        callers = self._waiting.get(key, deque())
        if caller in callers:
            callers.remove(caller)
            if not callers:
                del self._waiting[key]

    def next(self) -> T | None:
        """The caller whose turn it is, who then waits no more."""
        for key, callers in self._waiting.items():
            caller = callers.popleft()
            del self._waiting[key]
            if callers:
                self._waiting[key] = callers  # behind the other keys
            return caller
        return None
