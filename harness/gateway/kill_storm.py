"""SIGKILL to a gateway at random moments: what it had acknowledged is there after its restart.

A client creates sandboxes, writes files in them, pauses, resumes and ends them, one request at a
time, and notes what was acknowledged. Only the request that the kill cuts off may count as done or
as not done; whatever was acknowledged before it must have survived.
"""

from __future__ import annotations

import json
import random
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from harness.gateway.gateway_process import GatewayProcess

FILE = "/home/user/storm"
ENVD = 49983
TEMPLATE = "base"
LIMIT = 4
"""Sandboxes that live at the same time at most."""
LIFETIME_S = 3600
JSON = {"Content-Type": "application/json"}
BOUNDARY = "storm"


@dataclass
class _Sandbox:
    """What the client knows about a sandbox. `content` is what its file may hold: several texts
    where a write was cut off, and "" for a file that may be missing."""

    id: str
    token: str
    paused: bool = False
    content: set[str] = field(default_factory=lambda: {""})

    def headers(self, **more: str) -> Mapping[str, str]:
        own = {"E2b-Sandbox-Id": self.id, "E2b-Sandbox-Port": str(ENVD)}
        return {**own, "X-Access-Token": self.token, **more}


class Client:
    """Uses a gateway until that is killed, and afterwards checks what it had acknowledged."""

    def __init__(self, served: GatewayProcess, rng: random.Random, *, memory: bool) -> None:
        """`memory`: a pause saves the sandbox's memory too, which containers cannot."""
        self.served = served
        self._pause_with = {} if memory else {"memory": False}
        self._rng = rng
        self._sandboxes: dict[str, _Sandbox] = {}
        self._writes = 0
        self.done = 0
        """Requests that were acknowledged."""

    def use_until_killed(self, after_s: float) -> None:
        """Make requests, and kill the gateway `after_s` seconds from now."""
        timer = threading.Timer(after_s, self.served.kill)
        timer.start()
        try:
            while True:
                self._act()
                self.done += 1
        except (OSError, HTTPException):
            pass  # the kill
        finally:
            timer.join()

    def _act(self) -> None:
        sandboxes = list(self._sandboxes.values())
        if len(sandboxes) < LIMIT and (not sandboxes or self._rng.random() < 0.3):
            self._create()
            return
        sandbox = self._rng.choice(sandboxes)
        if sandbox.paused:
            self._resume(sandbox)
        else:
            action: Callable[[_Sandbox], None] = self._rng.choice(
                (self._write, self._write, self._pause, self._pause, self._end)
            )
            action(sandbox)

    def _create(self) -> None:
        request = {"templateID": TEMPLATE, "timeout": LIFETIME_S}
        created = json.loads(self._request("POST", "/v2/sandboxes", 201, request))
        new = _Sandbox(created["sandboxID"], created["envdAccessToken"])
        self._sandboxes[new.id] = new

    def _write(self, sandbox: _Sandbox) -> None:
        self._writes += 1
        text = f"write {self._writes}"
        sandbox.content.add(text)  # now, as a write that is cut off may have been done
        body = (
            f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=file; filename=storm\r\n\r\n"
            f"{text}\r\n--{BOUNDARY}--\r\n"
        ).encode()
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        headers = sandbox.headers(**{"Content-Type": kind})
        self._request("POST", f"/files?{_query()}", 200, body, headers)
        sandbox.content = {text}

    def _pause(self, sandbox: _Sandbox) -> None:
        self._request("POST", f"/sandboxes/{sandbox.id}/pause", 204, self._pause_with)
        sandbox.paused = True

    def _resume(self, sandbox: _Sandbox) -> None:
        path = f"/sandboxes/{sandbox.id}/connect"
        self._request("POST", path, (200, 201), {"timeout": LIFETIME_S})
        sandbox.paused = False

    def _end(self, sandbox: _Sandbox) -> None:
        del self._sandboxes[sandbox.id]  # now, as a request that is cut off may have been done
        self._request("DELETE", f"/sandboxes/{sandbox.id}", 204)

    def _request(
        self,
        method: str,
        path: str,
        expected: int | tuple[int, ...],
        body: Any = None,
        headers: Mapping[str, str] = JSON,
    ) -> bytes:
        status, answer = self.served.request(method, path, body, headers)
        accepted = expected if isinstance(expected, tuple) else (expected,)
        if status not in accepted:
            raise UnexpectedAnswer(f"{method} {path} was answered with {status}: {answer[:200]!r}")
        return answer

    def check(self) -> list[str]:
        """What is wrong with sandboxes after the gateway's restart; they are forgotten then."""
        wrong = []
        for sandbox in list(self._sandboxes.values()):
            try:
                self._resume(sandbox)  # also what was being paused
                path = f"/files?{_query()}"
                status, answer = self.served.request("GET", path, None, sandbox.headers())
                text = answer.decode() if status == 200 else ""
                if status not in (200, 404) or text not in sandbox.content:
                    wrong.append(
                        f"{sandbox.id}: {status} {answer[:200]!r}, not {sorted(sandbox.content)}"
                    )
                sandbox.content = {text}
            except (OSError, HTTPException, UnexpectedAnswer) as error:
                wrong.append(f"{sandbox.id}: {error}")
                del self._sandboxes[sandbox.id]
        return wrong

    @property
    def count(self) -> int:
        """Sandboxes that must exist."""
        return len(self._sandboxes)


class UnexpectedAnswer(Exception):
    """A gateway that lives refused a valid request."""


def _query() -> str:
    return urllib.parse.urlencode({"path": FILE, "username": "user"})
