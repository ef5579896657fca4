"""A gateway from its options to its end: state, run, fleet, HTTP server."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from harness import paths
from harness.errors import CoppiceError, MissingPrivilege, Unsupported, UsageError
from harness.gateway import certificate
from harness.gateway.app import Gateway
from harness.gateway.data_plane.websocket_proxy import Tunnel
from harness.gateway.fleets import disk, microvm, network, templates
from harness.gateway.fleets.containers import ContainerFleet
from harness.gateway.fleets.fd_holder import Keeper
from harness.gateway.fleets.microvm import Kit
from harness.gateway.fleets.microvm_fleet import Fleet, MachineFleet
from harness.gateway.fleets.network import Network
from harness.gateway.fleets.noop import NoopFleet
from harness.gateway.fleets.templates import NAMES
from harness.gateway.metrics import Meter
from harness.gateway.sandboxes.service import Sandboxes
from harness.gateway.sandboxes.store import Store, opened
from harness.guest.image import build
from harness.host import evidence
from harness.host.cpus import usable
from harness.host.memory import refuse_huge_pages
from harness.host.run import Run
from harness.host.session import open_run
from harness.paths import cache_directory
from harness.sandbox.qemu.accelerator import choose
from harness.sandbox.qemu.machine import Shape

FILE = "gateway.sqlite"
SUBSTRATES = ("qemu", "oci", "noop")
DOMAIN = "sandboxes.localhost"
"""Of sandboxes under TLS; many resolvers know names below localhost for this host."""
log = logging.getLogger("coppice.gateway")


def state_directory() -> Path:
    """Where a gateway keeps what outlives it; COPPICE_STATE names another."""
    return paths.state_directory() / "gateway"


@dataclass(frozen=True)
class Options:
    """`pool` is how many sandboxes of each template wait; `outside` the namespace that sandboxes
    reach as far as their rules let them (None: they reach each other alone, where allowed). `ready`
    gets the address and, where it speaks TLS, the file with its certificate."""

    host: str = "127.0.0.1"
    port: int = 3000
    state: Path | None = None
    substrate: str = "qemu"
    pool: Mapping[str, int] | int = 4
    domain: str | None = None
    plugged: bool = True
    outside: str | None = None
    verbose: bool = False
    tls: bool = False
    ready: Callable[[str, Path | None], Any] = print
    filled: Callable[[], Any] = bool

    def size(self, template: str) -> int:
        return self.pool if isinstance(self.pool, int) else self.pool.get(template, 0)


class Lines(logging.Formatter):
    """One object of JSON for each thing that happened."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "what": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0]:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _speak(verbose: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.INFO if verbose else logging.WARNING)


@contextlib.contextmanager
def state_of(directory: Path) -> Iterator[Store]:
    """The state of a gateway, which no other gateway may have at the same time."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"a gateway runs with the state in {directory}",
                hint="end it, or name another directory with --state",
            ) from error
        with opened(directory / FILE) as store:
            yield store
    finally:
        os.close(handle)


def _kit(run: Run, cache: Path) -> tuple[Kit, str]:
    image = build(cache, microvm.ENVD)
    chosen = choose(run, cache, image)
    if chosen.name == "tcg":
        refuse_huge_pages()
    shape = Shape(chosen.name, memory_mib=microvm.MEMORY_MIB)
    return Kit(run, image, disk.base(cache), shape), chosen.reason


def _fleet(options: Options, run: Run, stack: ExitStack) -> Fleet:
    if options.substrate == "noop":
        return NoopFleet()
    if options.substrate not in SUBSTRATES:
        raise UsageError(
            f"the gateway has no substrate {options.substrate!r}; {', '.join(SUBSTRATES)}"
        )
    cache = cache_directory()
    keeper = Keeper.start(run.directory, dict(run.environment))
    stack.callback(keeper.end)
    net = _network(options, run, keeper, stack)
    if options.substrate == "oci":
        containers = ContainerFleet(run, cache, keeper, net)
        for template in NAMES:
            if size := options.size(template):
                containers.offer(template, size, stack)
        return containers
    kit, note = _kit(run, cache)
    fleet = MachineFleet(kit, keeper, net, note)
    wanted = [template for template in NAMES if options.size(template)]
    # The first time each of them boots a guest, which keeps one processor busy.
    with ThreadPoolExecutor(usable()) as workers:
        list(workers.map(lambda template: templates.prepare(kit, cache, template), wanted))
    for template in wanted:
        fleet.offer(template, cache, options.size(template), stack)
    return fleet


def _network(options: Options, run: Run, keeper: Keeper, stack: ExitStack) -> Network | None:
    net = None
    if options.plugged:
        outside = options.outside
        where = int(outside) if outside and outside.isdigit() else outside and Path(outside)
        try:
            net = stack.enter_context(network.opened(run, where or None, keeper))
        except (Unsupported, MissingPrivilege) as error:
            log.warning("no network", extra={"fields": {"why": str(error)}})
    return net


def serve(options: Options) -> None:
    """Run a gateway until it is told to end (SIGINT, SIGTERM)."""
    _speak(options.verbose)
    evidence.leave_where_asked(os.environ)
    # uvicorn sends itself again what ended it: by then what we hold must still be let go of.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with ExitStack() as stack:
        directory = options.state or state_directory()
        store = stack.enter_context(state_of(directory))
        listener = stack.enter_context(_listen(options.host, options.port))
        run = stack.enter_context(open_run(goes_on=store.fact("run")))
        store.note("run", run.id)
        fleet = _fleet(options, run, stack)
        sandboxes = Sandboxes(fleet, store, directory, Meter())
        port = listener.getsockname()[1]
        domain, shown, chain = options.domain, None, None
        if options.tls:
            domain = domain or f"{DOMAIN}:{port}"
            shown = certificate.made(directory / "tls", options.host, domain)
            chain = shown.chain

        async def begin() -> None:
            await sandboxes.open()
            # Only now: what was there before and is nobody's has been ended.
            threading.Thread(target=_fill, args=(fleet, options), daemon=True).start()
            scheme = "https" if shown else "http"
            options.ready(f"{scheme}://{options.host}:{port}", chain)

        gateway = Gateway(sandboxes, domain, begin)

        class Upgraded(Tunnel):  # uvicorn takes a class
            def __init__(self, *, server_state: Any, **_: Any) -> None:
                super().__init__(gateway.tunnel, server_state)

        config = uvicorn.Config(
            gateway,
            loop="uvloop", http="httptools", lifespan="on", log_level="error", access_log=False,
            proxy_headers=False,
            timeout_graceful_shutdown=5, server_header=False, ws=Upgraded, timeout_keep_alive=60,
            ssl_certfile=chain, ssl_keyfile=shown.key if shown else None,
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listener])


def _fill(fleet: Fleet, options: Options) -> None:
    if isinstance(fleet, MachineFleet | ContainerFleet):
        try:
            fleet.fill()
        except CoppiceError as error:
            log.error("the pool is not full", extra={"fields": {"why": str(error)}})
    options.filled()


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        listener.listen(2048)
        listener.setblocking(False)
        yield listener
