"""Attacks of guests on their gateway, and what they cost it: memory, and the replies of others."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import SandboxError
from harness.gateway.gateway_process import GatewayProcess
from harness.gateway.hostile.peer import OUTPUT

ENVD, INTERPRETER, SERVER = 49983, 49999, 8080
GROWTH_MAX = 64 << 20
"""Bytes of memory that a guest may cost its gateway."""
PEEK = 4096
WRITERS, INPUT_BYTES = 8, 1 << 20
PROBE_PAUSE_S = 0.02
END_S = 40.0


@dataclass(frozen=True)
class Client:
    """Requests to a sandbox of a gateway."""

    served: GatewayProcess
    id: str
    token: str

    @classmethod
    def create(cls, served: GatewayProcess, template: str) -> Client:
        """A new sandbox."""
        headers = {"Content-Type": "application/json"}
        body = {"templateID": template, "timeout": 3600}
        status, data = served.request("POST", "/v2/sandboxes", body, headers)
        if status != 201:
            raise SandboxError(f"creating a sandbox failed with {status}: {data.decode()}")
        created = json.loads(data)
        return cls(served, created["sandboxID"], created["envdAccessToken"])

    def kill(self) -> None:
        self.served.request("DELETE", f"/sandboxes/{self.id}")

    def send(
        self, path: str, body: bytes | None, port: int = ENVD, kind: str = "application/json"
    ) -> http.client.HTTPResponse:
        """Make a request; the response, whose body is still to be read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.served.port, timeout=60)
        headers = {
            "E2b-Sandbox-Id": self.id, "E2b-Sandbox-Port": str(port), "X-Access-Token": self.token,
            "Content-Type": kind, "Connection": "close",
        }  # fmt: skip
        try:
            connection.request("GET" if body is None else "POST", path, body, headers)
            return connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def call(self, method: str, **body: Any) -> bytes:
        """A unary call of envd; the response's body."""
        with self.send(f"/{method}", json.dumps(body).encode()) as response:
            return response.read()

    def stream(self, method: str, **body: Any) -> http.client.HTTPResponse:
        data = json.dumps(body).encode()
        envelope = struct.pack(">BI", 0, len(data)) + data
        return self.send(f"/{method}", envelope, kind="application/connect+json")

    def is_connected(self) -> bool:
        """Whether the gateway has a channel to its envd."""
        with self.send("/health", None) as response:
            return response.status == 204

    def command(self) -> bool:
        """Whether a command gave the output of a peer that behaves."""
        with self.stream("process.Process/Start", process={"cmd": "/bin/echo"}) as response:
            return base64.b64encode(OUTPUT) in response.read()


Attack = Callable[[Client, threading.Event], str]
"""Makes the request that the guest abuses, holds it open until the event, and returns what the
caller then got."""


def _rest(response: http.client.HTTPResponse, stop: threading.Event) -> str:
    """Leave a response unread until the event; then its status and its end."""
    stop.wait()
    return _end(response)


def _end(response: http.client.HTTPResponse) -> str:
    """The status of a response and the end of its body, of which only a piece is kept."""
    end = b""
    with response, contextlib.suppress(OSError, http.client.HTTPException):
        while data := response.read(1 << 16):
            end = (end + data)[-PEEK:]
    return f"{response.status} {end.decode(errors='replace')}"


def _list(client: Client, stop: threading.Event) -> str:
    with client.send("/filesystem.Filesystem/ListDir", b'{"path": "/"}') as response:
        return _end(response)


def _processes(client: Client, stop: threading.Event) -> str:
    with client.send("/process.Process/List", b"{}") as response:
        return _end(response)


def _start(client: Client, stop: threading.Event) -> str:
    return _rest(client.stream("process.Process/Start", process={"cmd": "x"}), stop)


def _input(client: Client, stop: threading.Event) -> str:
    """Input for a process of a guest that does not read its channel, from several callers."""
    response = client.stream("process.Process/Start", process={"cmd": "x"})
    head = response.read(5)
    start = json.loads(response.read(struct.unpack(">BI", head)[1]))
    data = base64.b64encode(bytes(INPUT_BYTES)).decode()
    body = {"process": {"pid": start["event"]["start"]["pid"]}, "input": {"stdin": data}}
    ends: list[bytes] = []

    def write() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            ends.append(client.call("process.Process/SendInput", **body))

    threads = [threading.Thread(target=write, daemon=True) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    stop.wait()
    response.close()
    for thread in threads:
        thread.join(1)
    return " ".join(end.decode() for end in ends) or "open"


def _watch(client: Client, stop: threading.Event) -> str:
    return _rest(client.stream("filesystem.Filesystem/WatchDir", path="/"), stop)


def _poll(client: Client, stop: threading.Event) -> str:
    """A watcher whose events are not fetched until the end."""
    created = client.call("filesystem.Filesystem/CreateWatcher", path="/")
    stop.wait()
    watcher = json.loads(created)["watcherId"]
    with client.send(
        "/filesystem.Filesystem/GetWatcherEvents", json.dumps({"watcherId": watcher}).encode()
    ) as response:
        return _end(response)


def _cell(client: Client, stop: threading.Event) -> str:
    return _rest(client.send("/execute", b'{"code": "1"}', INTERPRETER), stop)


def _http(client: Client, stop: threading.Event) -> str:
    return _rest(client.send("/", None, SERVER), stop)


def _websocket(client: Client, stop: threading.Event) -> str:
    head = (
        f"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        f"E2b-Sandbox-Id: {client.id}\r\nE2b-Sandbox-Port: {SERVER}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", client.served.port), timeout=60) as connection:
        connection.sendall(head.encode())
        stop.wait()
        return connection.recv(PEEK).decode(errors="replace")


@dataclass(frozen=True)
class Case:
    """`template` is the peer's behaviour, `ends` a pattern of what the caller gets. The channel to
    the guest is ended where `breaks`; where `holds`, the caller waits until the guest is killed."""

    name: str
    template: str
    attack: Attack
    ends: str
    breaks: bool = False
    holds: bool = False


CASES: Sequence[Case] = (
    Case("endless-entries", "endless-entries", _list, "resource_exhausted"),
    Case("endless-processes", "endless-processes", _processes, "resource_exhausted"),
    Case("endless-output", "endless-output", _start, "resource_exhausted", breaks=True),
    Case("empty-output", "empty-output", _start, "resource_exhausted", breaks=True),
    Case("endless-headers", "endless-headers", _list, "unavailable|deadline", holds=True),
    Case("endless-length", "endless-length", _list, "data_loss", breaks=True),
    Case("noise", "noise", _list, "data_loss", breaks=True),
    Case("never-reads", "never-reads", _input, "unavailable|deadline", holds=True),
    Case("endless-events", "endless-events", _watch, "resource_exhausted"),
    Case("many-events-polled", "many-events", _poll, "^200"),
    Case("endless-line", "endless-line", _cell, "exceeds", breaks=True),
    Case("http-headers", "http-headers", _http, "^502.* too long"),
    Case("http-header", "http-header", _http, "^502.* too long"),
    Case("http-interim", "http-interim", _http, "^502.* too long"),
    Case("http-trailers", "http-trailers", _http, "^(200|502)"),
    Case("http-body", "http-body", _http, "^200", breaks=True),
    Case("http-upgrade", "http-upgrade", _http, "^502"),
    Case("http-status", "http-status", _http, "^502"),
    Case("websocket", "http-body", _websocket, "^HTTP/1.1 200", breaks=True),
)
BY_NAME: Mapping[str, Case] = {case.name: case for case in CASES}


@dataclass(frozen=True)
class Outcome:
    """What an attack did. `growth` is the gateway's peak memory above that of its start, in bytes;
    `replies` are the seconds that each command in another sandbox took."""

    growth: int
    replies: Sequence[float]
    faults: Sequence[str]


class Attacks:
    """A gateway that is attacked, by one guest at a time."""

    def __init__(self, served: GatewayProcess) -> None:
        self._served = served
        self._neighbour = Client.create(served, "base")
        self._neighbour.command()
        self._baseline = _memory(served, "VmRSS")

    def run(self, case: Case, seconds: float) -> Outcome:
        """Let a guest attack for some time, while the neighbour runs commands."""
        guest = Client.create(self._served, case.template)
        stop, ends = threading.Event(), []

        def attack() -> None:
            try:
                ends.append(case.attack(guest, stop))
            except Exception as error:
                ends.append(f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=attack, daemon=True)
        try:
            _reset_peak(self._served)
            thread.start()
            faults: list[str] = []
            replies = self._ask_neighbour(seconds)
            if case.breaks:
                faults += self._await_break(guest, replies)
            stop.set()
            if not case.holds:
                thread.join(END_S)
        finally:
            stop.set()
            guest.kill()
        thread.join(END_S)
        growth = _memory(self._served, "VmHWM") - self._baseline
        end = ends[0] if ends else "the caller's request does not end"
        if not re.search(case.ends, end, re.DOTALL):
            faults.append(f"the caller got {end[-300:]!r}")
        if growth > GROWTH_MAX:
            faults.append(f"the gateway grew by {growth >> 20} MiB")
        return Outcome(growth, replies, faults)

    def _ask_neighbour(self, seconds: float) -> list[float]:
        """The seconds of each command. SandboxError if one fails."""
        replies: list[float] = []
        deadline = time.monotonic() + seconds
        while not replies or time.monotonic() < deadline:
            began = time.monotonic()
            try:
                answered = self._neighbour.command()
            except (OSError, http.client.HTTPException) as error:
                raise SandboxError(f"another sandbox does not answer: {error}") from error
            if not answered:
                raise SandboxError("another sandbox answers wrongly")
            replies.append(time.monotonic() - began)
            time.sleep(PROBE_PAUSE_S)
        return replies

    def _await_break(self, guest: Client, replies: list[float]) -> Sequence[str]:
        deadline = time.monotonic() + END_S
        while guest.is_connected():
            if time.monotonic() > deadline:
                return ("the guest still has its channel",)
            replies += self._ask_neighbour(0)
        return ()


def _status(served: GatewayProcess) -> Path:
    assert served.process
    return Path(f"/proc/{served.process.pid}/status")


def _reset_peak(served: GatewayProcess) -> None:
    _status(served).with_name("clear_refs").write_text("5", encoding="utf-8")


def _memory(served: GatewayProcess, name: str) -> int:
    """A line of the process's status, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB", _status(served).read_text(encoding="utf-8"), re.M)
    assert found
    return int(found[1]) * 1024
