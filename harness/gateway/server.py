"""Runs a gateway: its state, run, fleet and HTTP server."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import logging
import os
import resource
import shlex
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvicorn

from harness import descriptors
from harness.errors import CoppiceError, Interrupted, PathError, UsageError
from harness.gateway import certificate, garbage, logs, predecessor
from harness.gateway.app import Gateway
from harness.gateway.data_plane.websocket_proxy import WebSocketProxy
from harness.gateway.fleets import setup, templates
from harness.gateway.fleets.container_fleet import ContainerFleet
from harness.gateway.fleets.fd_holder import FdHolder
from harness.gateway.fleets.microvm_fleet import MicroVmFleet
from harness.gateway.fleets.noop import NoopFleet
from harness.gateway.fleets.protocol import SandboxFleet
from harness.gateway.http.connections import Lease
from harness.gateway.http.limits import KEEP_ALIVE_S, ConnectionLimits
from harness.gateway.http.server import HttpServer
from harness.gateway.metrics import Metrics
from harness.gateway.options import SUBSTRATES, Options
from harness.gateway.predecessor import Predecessor
from harness.gateway.sandboxes.database import log_damage
from harness.gateway.sandboxes.service import Sandboxes
from harness.gateway.sandboxes.store import FILE, Store, opened
from harness.host import evidence
from harness.host.run import STATE, Run
from harness.host.session import open_run
from harness.paths import gateway_directory, runtime_directory
from harness.sandbox.pool import Drained

DOMAIN = "sandboxes.localhost"
"""Of sandboxes; many resolvers map names below localhost to this host."""
NO_DOMAIN = "set-the-option--domain-of-the-gateway.invalid"
"""Where other hosts are served: no name is known by which they reach a sandbox. An SDK without a
domain would send traffic and tokens to E2B's own cloud."""
DESCRIPTORS = 16_384
"""For which there is room from the start."""
log = logging.getLogger(logs.LOGGER)


@contextlib.contextmanager
def locked_store(directory: Path) -> Iterator[Store]:
    """The store of a gateway, which no other gateway may use at the same time."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise PathError(
            f"the gateway's state cannot be kept in {directory}: {error.strerror}",
            hint="choose another directory with --state",
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another gateway uses the state in {directory}",
                hint="stop it, or choose another directory with --state",
            ) from error
        if damage := log_damage(directory / FILE):
            fields = {"file": str(directory / FILE), "why": damage}
            log.error("the latest changes of the database are lost", extra={"fields": fields})
        with opened(directory / FILE) as store:
            if damage:
                store.damaged.add(("log", damage))
            yield store
    finally:
        os.close(handle)


def _fleet(
    options: Options, run: Run, outside: setup.Outside, before: Predecessor, stack: ExitStack
) -> SandboxFleet:
    if options.substrate == "noop":
        return NoopFleet()
    fd_holder = FdHolder.start(run.directory, dict(run.environment))
    stack.callback(lambda: fd_holder.leave() if run.goes_on else fd_holder.end())
    net = None
    if options.network:
        needed = before.has_network
        net = setup.open_network(run, outside, fd_holder, stack, needed=needed)
    before.require_network(given=net is not None)
    reserved = options.disk_reserve_mib
    disks = setup.Disks(options.disk_mib, options.disk_mib if reserved is None else reserved)
    make = setup.container_fleet if options.substrate == "oci" else setup.microvm_fleet
    return make(run, fd_holder, net, disks, options.pool_size, stack)


def serve(options: Options, fleet: SandboxFleet | None = None) -> None:
    """Run a gateway of this fleet, or else of the options' substrate, until a signal ends it, which
    raises Interrupted.

    Before the server runs, a signal raises Interrupted in its set-up (harness/interrupts.py), which
    the stack undoes. The sandboxes of a predecessor, and those that cannot be saved at the end,
    are left running: then the run goes on without this process.
    """
    logs.configure(options.verbose)
    evidence.leave_where_asked(os.environ)
    with ExitStack() as stack:
        directory = options.state or gateway_directory()
        store = stack.enter_context(locked_store(directory))
        listener = stack.enter_context(_listen(options.host, options.port))
        outside, state = _checked(options), directory.resolve()
        stack.enter_context(store.checkpoints_in_background())
        before = predecessor.predecessor(store, state, options, runtime_directory())
        run = stack.enter_context(open_run(state=state))
        fleet = fleet or _fleet(options, run, outside, before, stack)
        sandboxes = Sandboxes(fleet, store, directory, Metrics())
        port = listener.getsockname()[1]
        domain, tls, chain = options.domain or _default_domain(options.host, port), None, None
        if options.tls:
            tls = certificate.create(directory / "tls", options.host, domain)
            chain = tls.chain

        failed: list[Exception] = []

        async def on_start() -> None:
            try:
                await sandboxes.open()
                # Only now have orphaned sandboxes been ended.
                threading.Thread(target=_fill, args=(fleet, options), daemon=True).start()
                garbage.leave_out_what_is_there()
                scheme = "https" if tls else "http"
                options.on_ready(f"{scheme}://{options.host}:{port}", chain)
            except Exception as error:
                failed.append(error)
                raise

        gateway = Gateway(sandboxes, domain, on_start)

        def upgrade(lease: Lease, open_connections: set[Any]) -> WebSocketProxy:
            return WebSocketProxy(gateway.connect, open_connections, lease)

        config = uvicorn.Config(
            gateway,
            loop="uvloop", http="httptools", lifespan="on", log_level="error", access_log=False,
            proxy_headers=False, ws="none",
            server_header=False, timeout_keep_alive=KEEP_ALIVE_S,
            ssl_certfile=chain, ssl_keyfile=tls.key if tls else None,
        )  # fmt: skip
        server = HttpServer(config, listener, _limits(options), upgrade)
        with _going_on(run, store, options, state, sandboxes), garbage.searched_seldom():
            try:
                server.run()
            except SystemExit:
                if not failed:
                    raise
        if failed:  # uvicorn has only an exit code for it
            raise failed[0]
    if left := sandboxes.running:
        raise Interrupted(server.ended_by or signal.SIGTERM, _left(left, directory, options))
    if server.ended_by is not None:
        raise Interrupted(server.ended_by)


def _checked(options: Options) -> setup.Outside:
    """The outside network. Raises UsageError for options that cannot be."""
    if options.substrate not in SUBSTRATES:
        raise UsageError(
            f"the gateway has no substrate {options.substrate!r}",
            hint=f"choose from {', '.join(SUBSTRATES)}",
        )
    unknown = set() if isinstance(options.pool, int) else set(options.pool) - set(templates.NAMES)
    if unknown:
        raise UsageError(
            f"there is no template {', '.join(sorted(unknown))!r}",
            hint=f"choose from {', '.join(templates.NAMES)}",
        )
    return setup.outside_of(options)


@contextlib.contextmanager
def _going_on(
    run: Run, store: Store, options: Options, state: Path, sandboxes: Sandboxes
) -> Iterator[None]:
    """While the block runs, and afterwards if sandboxes still run, a successor can take over the
    run: also after a crash, and after a start that has failed before all were adopted."""
    try:
        predecessor.note(store, options, run)
        if not run.goes_on:
            (run.directory / STATE).write_text(str(state), encoding="utf-8")
        yield
    finally:
        known = sandboxes.opened or not run.taken_over
        if known and not sandboxes.running:
            (run.directory / STATE).unlink(missing_ok=True)


def _left(count: int, directory: Path, options: Options) -> str:
    """What was left running, and the command that takes it over."""
    sandboxes = "a sandbox was" if count == 1 else f"{count} sandboxes were"
    given = {"--state": directory, "--substrate": options.substrate, "--outside": options.outside}
    argv = [str(part) for name, value in given.items() if value for part in (name, value)]
    argv += [] if options.network else ["--no-network"]
    return (
        f"ended; {sandboxes} not saved and left running\n"
        f"  coppice gateway {shlex.join(argv)}   (takes over what runs; coppice clean ends it)"
    )


def _default_domain(host: str, port: int) -> str:
    """The domain of sandboxes' host names where the operator has set none."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    return f"{DOMAIN}:{port}" if local else NO_DOMAIN


def _limits(options: Options) -> ConnectionLimits:
    """The connections that the options and this process's descriptors allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    descriptors.make_room(min(hard, DESCRIPTORS))
    total = max(min(options.connections, hard // 2), 2)
    return ConnectionLimits(total, total // 2)


def _fill(fleet: SandboxFleet, options: Options) -> None:
    if isinstance(fleet, MicroVmFleet | ContainerFleet):
        try:
            fleet.fill()
        except Drained:  # the gateway is being stopped
            return
        except CoppiceError as error:
            log.error("the pools were not filled", extra={"fields": {"why": str(error)}})
    options.on_filled()


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
