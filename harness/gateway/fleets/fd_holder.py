"""Keeps the lines of a gateway's sandboxes open, so that a gateway that is killed finds them again.

A process of its own that does nothing else: it holds descriptors under names, on a socket in the
run's directory. It belongs to the run, so `coppice clean` ends it with the sandboxes of a gateway
that does not come back. Run as a program it needs the standard library alone.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Line(Protocol):
    """What has a descriptor."""

    def fileno(self) -> int: ...


SOCKET = "keeper.sock"
MOST = 16
"""Descriptors under one name."""


class Keeper:
    """A gateway's connection to its keeper."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._lock = threading.Lock()

    @classmethod
    def start(cls, directory: Path, environment: dict[str, str]) -> Keeper:
        """Connect to the keeper of a run's directory, which is started where there is none."""
        path = directory / SOCKET
        try:
            return cls(_connect(path))
        except OSError:
            path.unlink(missing_ok=True)
        subprocess.Popen(
            [sys.executable, "-S", __file__, str(path)],
            env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while True:
            try:
                return cls(_connect(path))
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def keep(self, name: str, lines: Sequence[Line]) -> None:
        """Hold these under a name, in this order."""
        self._ask(f"keep {name}", [line.fileno() for line in lines])

    def drop(self, name: str) -> None:
        self._ask(f"drop {name}")

    def names(self) -> list[str]:
        return self._ask("names")[0].split()

    def get(self, name: str) -> list[socket.socket]:
        """Lines of their own to what is held under a name."""
        _, descriptors = self._ask(f"get {name}")
        return [socket.socket(fileno=one) for one in descriptors]

    def end(self) -> None:
        """The keeper goes, with all that it holds."""
        with contextlib.suppress(OSError):
            self._line.send(b"end")
        self._line.close()

    def _ask(self, text: str, descriptors: Sequence[int] = ()) -> tuple[str, list[int]]:
        with self._lock:
            socket.send_fds(self._line, [text.encode()], list(descriptors))
            data, got, _, _ = socket.recv_fds(self._line, 1 << 20, MOST)
        return data.decode(), got


def _connect(path: Path) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        # By descriptor: the name of a socket has at most 107 bytes, a directory's may have more.
        line.connect(f"/proc/self/fd/{directory}/{path.name}")
    except OSError:
        line.close()
        raise
    finally:
        os.close(directory)
    line.settimeout(30)
    return line


def serve(path: str) -> None:
    """Hold what one gateway after the other hands over, until one says that it is over."""
    import selectors

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory, name = os.path.split(path)
    os.chdir(directory)
    listener.bind(name)
    listener.listen(4)
    held: dict[str, list[int]] = {}
    ready = selectors.DefaultSelector()
    ready.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fileobj is listener:
                ready.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            line = key.fileobj
            assert isinstance(line, socket.socket)
            try:
                data, got, _, _ = socket.recv_fds(line, 4096, MOST)
            except OSError:
                data, got = b"", []
            if data == b"end":
                return
            if not data:
                ready.unregister(line)
                line.close()
                continue
            what, _, name = data.decode().partition(" ")
            answer, sent = "ok", array.array("i")
            if what == "keep":
                held[name] = list(got)
            elif what == "drop":
                for one in held.pop(name, []):
                    os.close(one)
            elif what == "names":
                answer = "\n".join(held)
            elif what == "get":
                sent = array.array("i", held.get(name, []))
            with contextlib.suppress(OSError):
                socket.send_fds(line, [answer.encode() or b" "], sent.tolist())


if __name__ == "__main__":
    serve(sys.argv[1])
