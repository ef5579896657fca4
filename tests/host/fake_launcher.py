"""Launches sandboxes that are not there, for tests of pools."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from harness.sandbox.protocol import Sandbox
from tests.host.processes import eventually


class FakeSandbox:
    """Not a guest: only counts how often it is destroyed."""

    def __init__(self) -> None:
        self.destroyed = 0

    def destroy(self) -> None:
        self.destroyed += 1


class FakeLauncher:
    """Launches fake sandboxes; launches can be made to wait and to fail."""

    def __init__(self) -> None:
        self.made: list[FakeSandbox] = []
        self.calls = 0
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.outcomes: list[Exception | None] = []
        """Of the next launches, in order; after them `error` counts."""

    def __call__(self) -> Sandbox:
        self.calls += 1
        assert self.gate.wait(60)
        error = self.outcomes.pop(0) if self.outcomes else self.error
        if error:
            raise error
        self.made.append(FakeSandbox())
        return cast(Sandbox, self.made[-1])

    @contextmanager
    def opened(self, when: Callable[[], bool]) -> Iterator[None]:
        """Let waiting launches go on as soon as a condition is true."""

        def wait() -> None:
            eventually(when)
            self.gate.set()

        opener = threading.Thread(target=wait)
        opener.start()
        yield
        opener.join()

    @property
    def destroyed(self) -> list[int]:
        return [one.destroyed for one in self.made]


def fake(sandbox: Sandbox) -> FakeSandbox:
    assert isinstance(sandbox, FakeSandbox)
    return sandbox
