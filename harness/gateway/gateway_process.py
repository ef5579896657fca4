"""A gateway in a process of its own, for rigs and tests."""

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
from harness.gateway.sandboxes.store import FILE, Limits, opened
from harness.host import evidence
from harness.host.run import Run

if TYPE_CHECKING:
    import ssl

GATEWAY = ("harness", "gateway")
"""The module of the command, with its first argument."""
START_S = 280.0
PORT = re.compile(rb"https?://[^ ]*:(\d+) ")
"""The first line that a gateway prints, once it serves."""
HOST = "127.0.0.1"


@dataclass
class GatewayProcess:
    """A gateway, which can be stopped and started again, on another port. `directory` is that of
    its state."""

    directory: Path
    key: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    host: str = HOST

    @property
    def certificate(self) -> Path | None:
        """The certificate that clients must trust, with TLS."""
        return self.directory / "tls" / "certificate.pem" if "--tls" in self.argv else None

    @property
    def address(self) -> str:
        return f"http{'s' if self.certificate else ''}://{self.host}:{self.port}"

    @property
    def sdk_environment(self) -> Mapping[str, str]:
        """The environment variables with which the SDK uses it."""
        trust = {"SSL_CERT_FILE": str(self.certificate)} if self.certificate else {}
        return {
            "E2B_API_KEY": self.key,
            "E2B_API_URL": self.address,
            "E2B_SANDBOX_URL": self.address,
            **trust,
        }

    def start(self) -> None:
        """Start it and wait until it serves; SandboxError with the end of its log if it fails."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.argv, env=dict(self.environment), stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=log, process_group=0,
            )  # fmt: skip
        assert self.process.stdout
        # It binds a free port and prints it: a port chosen here might be taken by then.
        ready, _, _ = select.select([self.process.stdout], [], [], START_S)
        found = PORT.match(self.process.stdout.readline()) if ready else None
        if not found:
            self.stop()
            raise SandboxError(f"the gateway did not start: {self.log_tail()}")
        self.port = int(found[1])

    def log_tail(self) -> str:
        return (self.directory / "log").read_text(errors="replace", encoding="utf-8")[-2000:]

    def wait_for_pool(self, template: str, count: int, timeout_s: float = START_S) -> None:
        """Wait until this many sandboxes of a template are ready."""
        deadline = time.monotonic() + timeout_s
        while self.metric(f'coppice_pool_ready{{template="{template}"}}') < count:
            if time.monotonic() > deadline:
                raise GuestTimeout(f"the pool of {template} is not full: {self.log_tail()}")
            time.sleep(0.05)

    def metric(self, name: str) -> float:
        """A value of /metrics; 0 if it is missing."""
        for line in self.request("GET", "/metrics")[1].decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Make a request with the gateway's key; the status and body of the response."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, method=method)
        for name, value in {"X-API-KEY": self.key, **(headers or {})}.items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(
                request, timeout=120, context=self._tls_context()
            ) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def _tls_context(self) -> ssl.SSLContext | None:
        if not (certificate := self.certificate):
            return None
        import ssl  # slow to import, and not in every Python

        return ssl.create_default_context(cafile=certificate)

    def kill(self) -> None:
        """End it as a crash would."""
        assert self.process and self.process.stdout
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self, timeout_s: float = 120) -> None:
        """Stop it as an operator would; safe to call twice."""
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
    """A key for the gateway with this state, running or not."""
    with opened(directory / FILE) as store:
        return store.new_key("rig", limits)[1]


def _shared_disks(program: Sequence[str], options: Sequence[str]) -> Sequence[str]:
    """Rigs and tests start many sandboxes on small disks, and few of them write much."""
    given = program != GATEWAY or "noop" in options or "--disk-reserve" in options
    return () if given else ("--disk-reserve", "32")


@contextlib.contextmanager
def running_gateway(
    run: Run,
    *options: str,
    limits: Limits | None = None,
    runtime: Path | None = None,
    program: Sequence[str] = GATEWAY,
) -> Iterator[GatewayProcess]:
    """A gateway with its own state, until the block ends. `options` are those of the command;
    `program` is the module that runs it, with its first arguments."""
    with tempfile.TemporaryDirectory(prefix="gateway-", dir=run.directory) as name:
        directory = Path(name)
        argv = (
            sys.executable, "-m", *program, "--state", str(directory), "--port", "0",
            *_shared_disks(program, options), *options,
        )  # fmt: skip
        # A process of this run, so that it does not outlive a rig that is killed.
        environment = {**os.environ, **run.environment}
        environment |= {"COPPICE_RUNTIME": str(runtime)} if runtime else {}
        ended = directory / "ended"
        environment |= {evidence.VARIABLE: str(ended)} if evidence.wanted() else {}
        key = new_key(directory, limits)
        host = options[options.index("--host") + 1] if "--host" in options else HOST
        process = GatewayProcess(directory, key, argv, environment, host=host)
        try:
            process.start()
            yield process
        finally:
            process.stop()
            for left in sorted(ended.glob("*")):
                evidence.drop(left)
            evidence.drop(directory / "log", name=f"{directory.name}.log")
