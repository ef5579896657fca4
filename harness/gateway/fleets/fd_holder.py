"""Keeps the channels to a gateway's sandboxes open, so that its successor finds them after a crash.

A separate process holds file descriptors by name and listens on a socket in the run's directory. It
belongs to the run, so `coppice clean` ends it together with the sandboxes of a gateway that is not
restarted. As a program, this module needs only the standard library.
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


class HasFileno(Protocol):
    """A socket or file."""

    def fileno(self) -> int: ...


SOCKET = "keeper.sock"
DESCRIPTORS_MAX = 16
"""Under one name."""


class FdHolder:
    """A gateway's connection to the process that holds its descriptors; for any thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    @classmethod
    def start(cls, directory: Path, environment: dict[str, str]) -> FdHolder:
        """Connect to the process of a run, started if there is none."""
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

    def keep(self, name: str, files: Sequence[HasFileno]) -> None:
        """Hold copies of these descriptors under a name, in this order."""
        self._request(f"keep {name}", [file.fileno() for file in files])

    def drop(self, name: str) -> None:
        self._request(f"drop {name}")

    def names(self) -> list[str]:
        return self._request("names")[0].split()

    def get(self, name: str) -> list[socket.socket]:
        """Copies of the sockets held under a name."""
        _, descriptors = self._request(f"get {name}")
        return [socket.socket(fileno=descriptor) for descriptor in descriptors]

    def leave(self) -> None:
        """Let the process go on, for the next gateway."""
        self._connection.close()

    def end(self) -> None:
        """End the process and close all that it holds."""
        with contextlib.suppress(OSError):
            self._connection.send(b"end")
        self._connection.close()

    def _request(self, text: str, descriptors: Sequence[int] = ()) -> tuple[str, list[int]]:
        with self._lock:
            socket.send_fds(self._connection, [text.encode()], list(descriptors))
            data, received, _, _ = socket.recv_fds(self._connection, 1 << 20, DESCRIPTORS_MAX)
        return data.decode(), received


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        # Through a descriptor: a socket's path has at most 107 bytes.
        connection.connect(f"/proc/self/fd/{directory}/{path.name}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(directory)
    connection.settimeout(30)
    return connection


def serve(path: str) -> None:
    """Hold descriptors for one gateway after the other, until a gateway ends the process."""
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
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            try:
                data, received, _, _ = socket.recv_fds(connection, 4096, DESCRIPTORS_MAX)
            except OSError:
                data, received = b"", []
            if data == b"end":
                return
            if not data:
                ready.unregister(connection)
                connection.close()
                continue
            command, _, name = data.decode().partition(" ")
            answer, sent = "ok", array.array("i")
            if command == "keep":
                held[name] = list(received)
            elif command == "drop":
                for descriptor in held.pop(name, []):
                    os.close(descriptor)
            elif command == "names":
                answer = "\n".join(held)
            elif command == "get":
                sent = array.array("i", held.get(name, []))
            with contextlib.suppress(OSError):
                socket.send_fds(connection, [answer.encode() or b" "], sent.tolist())


if __name__ == "__main__":
    serve(sys.argv[1])
