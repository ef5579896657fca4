"""The event loop of a context: one for all cells, which also runs between them, as in Jupyter.

A task that a cell starts goes on whenever a later cell awaits and while no cell runs.
"""

import asyncio
import contextlib
import functools
import os


class CellLoop(asyncio.SelectorEventLoop):
    """Counts as the running loop in every cell, so that one that awaits nothing can start tasks."""

    def is_running(self):
        return self.turns() or asyncio._get_running_loop() is self

    def turns(self):
        """Whether it runs tasks now."""
        return super().is_running()

    def close(self):
        raise RuntimeError("the event loop of the cells cannot be closed")

    @contextlib.contextmanager
    def in_cell(self):
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)


def start():
    """The loop; asyncio's functions that run another one can be called in cells, too."""
    loop = CellLoop()
    asyncio.set_event_loop(loop)
    asyncio.run = asyncio.runners.run = _beside(asyncio.run)
    for owner, name in (
        (asyncio.Runner, "run"),
        (asyncio.BaseEventLoop, "run_until_complete"),
        (asyncio.BaseEventLoop, "run_forever"),
    ):
        setattr(owner, name, _beside(getattr(owner, name)))
    return loop


def _beside(run):
    """A function that runs a loop. It refuses to do so where another counts as running: right
    where a cell awaits, but a cell that does not can run a loop of its own."""

    @functools.wraps(run)
    def called(*arguments, **more):
        loop = asyncio._get_running_loop()
        if not isinstance(loop, CellLoop) or loop.turns():
            return run(*arguments, **more)
        asyncio._set_running_loop(None)
        try:
            return run(*arguments, **more)
        finally:
            asyncio._set_running_loop(loop)

    return called


class Requests:
    """Lines from a descriptor. The loop runs while the next one is waited for."""

    def __init__(self, loop, descriptor):
        self._loop = loop
        self._descriptor = descriptor
        self._arrived = bytearray()
        self._complete = False
        os.set_blocking(descriptor, False)

    def next(self):
        """The next line; None at the end."""
        # Not watched during cells: a cell that awaits would collect the requests behind it.
        self._loop.add_reader(self._descriptor, self._read)
        self._complete = b"\n" in self._arrived
        while not self._complete:
            # A task may have raised SystemExit, or have stopped the loop.
            with contextlib.suppress(BaseException):
                self._loop.run_forever()
        self._loop.remove_reader(self._descriptor)
        line, newline, self._arrived = self._arrived.partition(b"\n")
        return bytes(line) if newline else None

    def _read(self):
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:  # called once more after a task has raised SystemExit
            return
        self._arrived += data
        if not data or b"\n" in data:
            self._complete = True
            self._loop.stop()
