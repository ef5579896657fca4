"""A gateway in a process of its own, as the rigs and tests use it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import GuestTimeout, SandboxError
from harness.gateway.sandboxes.store import Limits, opened
from harness.host import evidence
from harness.host.run import Run

if TYPE_CHECKING:
    import ssl

START_S = 280.0
FILE = "gateway.sqlite"
PORT = re.compile(rb"https?://127\.0\.0\.1:(\d+) ")
"""What a gateway says when it serves."""


@dataclass
class Running:
    """A gateway process; `directory` is its state. It may be ended and begun again: it has another
    port then."""

    directory: Path
    key: str
    words: Sequence[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    port: int = 0

    @property
    def certificate(self) -> Path | None:
        """What clients are to believe, of one that speaks TLS."""
        return self.directory / "tls" / "certificate.pem" if "--tls" in self.words else None

    @property
    def address(self) -> str:
        return f"http{'s' if self.certificate else ''}://127.0.0.1:{self.port}"

    @property
    def variables(self) -> Mapping[str, str]:
        """What the SDK needs to know of it."""
        believed = {"SSL_CERT_FILE": str(self.certificate)} if self.certificate else {}
        return {
            "E2B_API_KEY": self.key,
            "E2B_API_URL": self.address,
            "E2B_SANDBOX_URL": self.address,
            **believed,
        }

    def begin(self) -> None:
        """Start it and wait until it serves. SandboxError with what it said when it does not."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.words, env=dict(self.environment), stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=log, process_group=0,
            )  # fmt: skip
        assert self.process.stdout
        # It binds a port that is free and says which: one chosen here might be taken by then.
        ready, _, _ = select.select([self.process.stdout], [], [], START_S)
        found = PORT.match(self.process.stdout.readline()) if ready else None
        if not found:
            self.end()
            raise SandboxError(f"the gateway does not start: {self.said()}")
        self.port = int(found[1])

    def said(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-2000:]

    def wait_for_pool(self, template: str, count: int, timeout_s: float = START_S) -> None:
        """Wait until so many sandboxes of a template stand ready."""
        deadline = time.monotonic() + timeout_s
        while self.metric(f'coppice_pool_ready{{template="{template}"}}') < count:
            if time.monotonic() > deadline:
                raise GuestTimeout(f"the pool of {template} is not full: {self.said()}")
            time.sleep(0.05)

    def metric(self, name: str) -> float:
        """One figure of /metrics; 0 when it is not there."""
        for line in self.ask("GET", "/metrics")[1].decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """One request under the gateway's key: status and body."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        asked = urllib.request.Request(self.address + path, data, method=method)
        for name, value in {"X-API-KEY": self.key, **(headers or {})}.items():
            asked.add_header(name, value)
        try:
            with urllib.request.urlopen(asked, timeout=120, context=self._believing()) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def _believing(self) -> ssl.SSLContext | None:
        if not (certificate := self.certificate):
            return None
        import ssl  # slow to import, and not in every Python

        return ssl.create_default_context(cafile=certificate)

    def kill(self) -> None:
        """As a crash would."""
        assert self.process and self.process.stdout
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def end(self, timeout_s: float = 120) -> None:
        """As an operator would; safe to call twice."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process and self.process.stdout:
            self.process.stdout.close()


def new_key(directory: Path, limits: Limits | None = None) -> str:
    """A key for a gateway with this state, which may run."""
    with opened(directory / FILE) as store:
        return store.new_key("rig", limits)[1]


@contextlib.contextmanager
def gateway(
    run: Run, *options: str, limits: Limits | None = None, runtime: Path | None = None
) -> Iterator[Running]:
    """A gateway with a state of its own, until the block ends. `options` are of the command."""
    with tempfile.TemporaryDirectory(prefix="gateway-", dir=run.directory) as name:
        directory = Path(name)
        words = (
            sys.executable, "-m", "harness.cli", "gateway", "--state", str(directory),
            "--port", "0", *options,
        )  # fmt: skip
        # It is a process of this run, so that it does not outlive a rig that is killed.
        environment = {**os.environ, **run.environment}
        environment |= {"COPPICE_RUNTIME": str(runtime)} if runtime else {}
        ended = directory / "ended"
        environment |= {evidence.VARIABLE: str(ended)} if evidence.wanted() else {}
        one = Running(directory, new_key(directory, limits), words, environment)
        try:
            one.begin()
            yield one
        finally:
            one.end()
            for left in sorted(ended.glob("*")):
                evidence.drop(left)
            evidence.drop(directory / "log", name=f"{directory.name}.log")
