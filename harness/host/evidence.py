"""Logs of sandboxes that are gone, for as long as what used them may still fail.

A sandbox's log goes away with the sandbox, and whether a measurement has failed is known later.
Between the two, in a process that asked for it (`collect`), the ends of those logs are held in
memory; who judges takes them (harness/rig/evidence.py). Elsewhere `drop` only removes the file.
Nothing here is called while a clock runs: sandboxes are destroyed after it has stopped.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from harness.host.run import JOURNAL, Run

VARIABLE = "COPPICE_EVIDENCE"
"""In the environment of a gateway that a rig or a test has started: the directory where it leaves
the logs of VMMs that ended by themselves."""
FILE_LIMIT = 1 << 20
"""Bytes that are kept of one file: its end."""
HELD_LIMIT = 64 << 20
"""Bytes that are held of all together; the oldest go."""
ENDING_S = 1.0
"""How long a process may take to end after it has closed a channel."""
BLOCK = 4096
"""What a file counts at least: many small ones fill a disk too."""
LIVING = ("*.log", "*.console", "gateway-*/log", JOURNAL)
"""What lies in a run's directory while its owner lives."""

Sink = Callable[[str, bytes], None]
_sink: Sink | None = None
_only_noted = False


class Held:
    """The ends of logs by name, the oldest first; several threads may add."""

    def __init__(self) -> None:
        self._files: deque[tuple[str, bytes]] = deque()
        self._size = 0
        self._lock = threading.Lock()

    def add(self, name: str, content: bytes) -> None:
        with self._lock:
            self._files.append((name, content))
            self._size += max(len(content), BLOCK)
            while self._size > HELD_LIMIT:
                self._size -= max(len(self._files.popleft()[1]), BLOCK)

    def take(self) -> list[tuple[str, bytes]]:
        """All of them; none is held afterwards."""
        with self._lock:
            files = list(self._files)
            self._files.clear()
            self._size = 0
        return files


@contextlib.contextmanager
def collect() -> Iterator[Held]:
    """Hold the logs of sandboxes of this process that go while the block runs."""
    global _sink
    before, held = _sink, Held()
    _sink = held.add
    try:
        yield held
    finally:
        _sink = before


def leave_in(directory: Path) -> None:
    """From now on leave the logs of programs that ended by themselves in a directory.

    For a process whose owner judges: only what explains itself is left, so that nothing is added
    to what a client waits for.
    """
    global _sink, _only_noted
    space = HELD_LIMIT
    lock = threading.Lock()

    def leave(name: str, content: bytes) -> None:
        nonlocal space
        with lock:
            space -= max(len(content), BLOCK)
            if space < 0:
                return
        with contextlib.suppress(OSError):  # the owner may be gone, and the directory with it
            directory.mkdir(exist_ok=True)
            (directory / name).write_bytes(content)

    _sink, _only_noted = leave, True


def leave_where_asked(environment: Mapping[str, str]) -> None:
    """`leave_in` the directory that this process's starter has named, if it has."""
    if directory := environment.get(VARIABLE):
        leave_in(Path(directory))


def wanted(noted: bool = False) -> bool:
    """Whether what a sandbox leaves is of use to anybody; `noted`: it ended by itself."""
    return _sink is not None and (noted or not _only_noted)


def add(name: str, content: bytes, note: str = "") -> None:
    """Hold what explains a sandbox's end; `note` says that it came by itself, and how."""
    if _sink is None or not wanted(bool(note)) or not (content or note):
        return
    if len(content) > FILE_LIMIT:
        content = content[-FILE_LIMIT:]
    _sink(name, content + (f"[coppice: {note}]\n".encode() if note else b""))


def drop(log: Path, note: str = "", name: str = "") -> None:
    """Remove a log; its end is held where a failure may still have to be explained."""
    if wanted(bool(note)):
        with contextlib.suppress(OSError):
            add(name or log.name, tail(log), note)
    log.unlink(missing_ok=True)


class Waitable(Protocol):
    """A process whose end can be awaited."""

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


def code_if_ended(process: Waitable, *channels: int) -> int | None:
    """The exit code of a process that has ended or is ending; None for one that runs.

    The kernel closes the descriptors of an ending process before it can be reaped, so an owner
    that acts on a closed channel may find a process without an exit code. `channels` are this
    side's descriptors of sockets to it.
    """
    code = process.poll()
    if code is None and any(map(_closed_at_the_other_end, channels)):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(ENDING_S)
    return code


def _closed_at_the_other_end(descriptor: int) -> bool:
    if descriptor < 0:  # closed at this end
        return False
    watch = select.poll()
    watch.register(descriptor, 0)  # POLLHUP is always reported
    return any(events & select.POLLHUP for _, events in watch.poll(0))


def ended_by_itself(code: int | None) -> str:
    """The note on a program that was not running any more when its owner ended it; "" if it was."""
    if code is None:
        return ""
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"it ended before it was told to, by {how}"


def tail(path: Path) -> bytes:
    """The end of a file, of at most FILE_LIMIT bytes."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - FILE_LIMIT))
        return file.read(FILE_LIMIT)


def living(run: Run) -> Iterator[tuple[str, bytes]]:
    """The logs of a run's sandboxes and programs that are still there, and its journal."""
    for pattern in LIVING:
        for path in sorted(run.directory.glob(pattern)):
            with contextlib.suppress(OSError):  # it goes with its sandbox, at any moment
                if content := tail(path):
                    yield "-".join(path.relative_to(run.directory).parts), content
