"""Headless Chromium over the DevTools protocol's pipe: no driver and no port."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
_LIMIT = 60.0


def program() -> str | None:
    """Where Chromium is, if it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One tab. `complaints` gathers console errors, exceptions and failed requests."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._number, self._buffer = 0, b""
        self._events: list[dict[str, Any]] = []
        self._session: str | None = None
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self._events.append(answer)
            self._note(answer)

    def _message(self) -> dict[str, Any]:
        end = time.monotonic() + _LIMIT
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(end - time.monotonic(), 0))[0]:
                raise TimeoutError("Chromium does not answer")
            chunk = os.read(self._read, 1 << 20)
            if not chunk:
                raise RuntimeError("Chromium went away")
            self._buffer += chunk
        text, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(text))

    def _note(self, event: dict[str, Any]) -> None:
        method, facts = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(facts["exceptionDetails"]["text"]))
        elif method == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{facts['entry']['text']} {facts['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(f"console.{facts['type']}")
        elif method == "Network.loadingFailed":
            self.complaints.append(f"not loaded: {facts['errorText']}")

    def view(self, width: int, height: int = 900, *, dark: bool = False, media: str = "") -> None:
        """The size of the window in CSS pixels, and what the page is told of its surroundings."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def open(self, address: str) -> None:
        """Load a page and wait until it has."""
        self._events.clear()
        self.call("Page.navigate", url=address)
        while not any(one.get("method") == "Page.loadEventFired" for one in self._events):
            event = self._message()
            self._events.append(event)
            self._note(event)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def evaluate_later(self, expression: str) -> Any:
        """The value that a promise in the page comes to."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def screenshot(self, target: Path, *, whole: bool = True) -> None:
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        target.write_bytes(base64.b64decode(answer["data"]))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium with a profile of its own; end it and remove the profile."""
    found = program()
    assert found
    with contextlib.ExitStack() as stack:
        profile = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        to_child, ours_out = os.pipe()
        ours_in, from_child = os.pipe()
        stack.callback(os.close, ours_in)
        stack.callback(os.close, ours_out)
        process = _spawn(
            [found, *_FLAGS, f"--user-data-dir={profile}", "about:blank"], to_child, from_child
        )
        try:
            one = Browser(ours_out, ours_in)
            yield one
            with contextlib.suppress(RuntimeError, TimeoutError, OSError):
                one._session = None
                one.call("Browser.close")
        finally:
            _end(process)


def _spawn(argv: list[str], to_child: int, from_child: int) -> int:
    """Start Chromium with the pipes as file descriptors 3 and 4; closes them on our side."""
    # Out of the way first, so that neither is overwritten by the other.
    read = fcntl.fcntl(to_child, fcntl.F_DUPFD_CLOEXEC, 10)
    write = fcntl.fcntl(from_child, fcntl.F_DUPFD_CLOEXEC, 10)
    actions = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    wires = [(os.POSIX_SPAWN_DUP2, read, 3), (os.POSIX_SPAWN_DUP2, write, 4)]
    try:
        return os.posix_spawn(
            argv[0], argv, os.environ, file_actions=[*actions, *wires], setsid=True
        )
    finally:
        for descriptor in (to_child, from_child, read, write):
            os.close(descriptor)


def _end(process: int) -> None:
    """Wait until Chromium has ended; kill it when it takes too long."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if os.waitpid(process, os.WNOHANG)[0]:
            return
        time.sleep(0.05)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
