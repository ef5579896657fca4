"""A gateway that stops at a stage of a change, so that a test can kill it there.

As a program it is the command `coppice` with an observer of the gateway's stages
(harness/gateway/stages.py); the test's side is `killed_at`.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import cli
from harness.gateway import stages
from harness.gateway.gateway_process import GatewayProcess

STAGE, SOCKET = "stage", "stage.socket"
LIMIT_S = 120.0
"""Only a bound against hanging."""


def _stop_where_asked(stage: str) -> None:
    """Report the stage that the test has named, and wait there to be killed."""
    directory = Path(sys.argv[sys.argv.index("--state") + 1])
    with contextlib.suppress(FileNotFoundError):
        if (directory / STAGE).read_text(encoding="utf-8") == stage:
            with socket.socket(socket.AF_UNIX) as channel:
                channel.connect(_short(directory))
                channel.recv(1)


def _short(directory: Path) -> str:
    """A path of the socket that fits: its limit is 107 bytes."""
    return os.path.relpath(directory / SOCKET)


def killed_at(
    gateway: GatewayProcess,
    stage: str,
    request: Callable[[], Any],
    meanwhile: Callable[[], Any] = bool,
) -> None:
    """Make a request, kill the gateway when it reaches the stage, and start its successor."""
    assert gateway.process
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(_short(gateway.directory))
        server.listen()
        server.settimeout(0.2)
        (gateway.directory / STAGE).write_text(stage, encoding="utf-8")
        asking = threading.Thread(target=_ask, args=(request,))
        asking.start()
        deadline = time.monotonic() + LIMIT_S
        while True:
            assert gateway.process.poll() is None, gateway.log_tail()
            assert time.monotonic() < deadline, f"{stage} was not reached: {gateway.log_tail()}"
            with contextlib.suppress(TimeoutError):
                with server.accept()[0]:
                    gateway.kill()
                break
    for name in (STAGE, SOCKET):
        (gateway.directory / name).unlink()
    asking.join()
    meanwhile()
    gateway.start()


def _ask(request: Callable[[], Any]) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):  # its gateway dies
        request()


if __name__ == "__main__":
    stages.observers.append(_stop_where_asked)
    sys.exit(cli.main())
