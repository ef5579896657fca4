"""Whom a networked sandbox reaches: a neighbour, its host, and two others on its network.

Each of them sends a word to whoever connects, and who has the word has reached it. It is tried
under a policy that allows one of them, and again under one that allows all: what was refused
before and is reached then was there all the time.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from harness.errors import SandboxError
from harness.host.identity import allocate
from harness.host.run import Run
from harness.network.cubenet import Cubenet, open_cubenet
from harness.network.endpoint import endpoint
from harness.network.namespace import inside
from harness.network.policy import Policy
from harness.network.uplink import GATEWAYS, THERE
from harness.procedures.columns import TIMEOUT_S, Stand
from harness.sandbox.oci.substrate import OciTemplate
from harness.sandbox.protocol import Sandbox

PORT = 7007
TRIES = 2
"""A guest that found no neighbour before asks again in its own time."""
PATIENCE_S = 10.0
_SERVE = "while :; do echo {word} | busybox nc -l -p {port}; done >/dev/null 2>&1 </dev/null &"
_ASK = "busybox nc -w 1 {address} {port} </dev/null"


@dataclass(frozen=True)
class Reached:
    """One try. `policy` in force allowed `one` of the targets, or `all` of them; `allowed` is what
    it said of this one."""

    target: str
    policy: str
    allowed: bool
    reached: bool


@dataclass(frozen=True)
class _Target:
    name: str
    address: IPv4Address
    port: int
    word: str


def matrix(stand: Stand, run: Run) -> Sequence[Reached]:
    """What one sandbox of a column reaches, on a network of its own that this host is outside of.

    Raises SandboxError when even what is allowed is not reached: then nothing was shown.
    """
    with ExitStack() as stack:
        net = stack.enter_context(open_cubenet(run, os.getpid()))
        attacker, neighbour = (stack.enter_context(_attached(stand, run, net)) for _ in range(2))
        targets = [
            _serve_inside(neighbour),
            stack.enter_context(_serving("host", THERE[0].ip, None)),
        ]
        for name in ("denied", "allowed"):
            other = stack.enter_context(endpoint(run, net))
            address = other.identity.address
            targets.append(stack.enter_context(_serving(name, address, other.namespace)))
        # As its root may: nothing outside depends on what a sandbox has been told.
        attacker.agent.run(["/bin/ip", "route", "add", "default", "via", str(GATEWAYS[0])])
        found: list[Reached] = []
        for policy, allowed in (("one", targets[-1:]), ("all", targets)):
            net.apply(attacker.id, Policy.of([str(one.address) for one in allowed]))
            reached = _reached(attacker, targets, {one.name for one in allowed})
            found += [
                Reached(one.name, policy, one in allowed, one.name in reached) for one in targets
            ]
        missed = [one.target for one in found if one.allowed and not one.reached]
        if missed:
            raise SandboxError(
                f"{stand.column} does not reach {', '.join(missed)} although its policy allows it"
            )
        return found


@contextlib.contextmanager
def _attached(stand: Stand, run: Run, net: Cubenet) -> Iterator[Sandbox]:
    """One that answers, on this network and allowed nothing."""
    identity = allocate(run.leases, run.id)
    tier, template, tap = stand.column.tier, stand.template, None
    with ExitStack() as stack:
        if isinstance(template, OciTemplate):
            template = replace(template, net=net)  # it attaches and detaches itself
        else:
            tap = net.attach_tap(identity).descriptor
            stack.callback(net.detach, identity.id)
        sandbox = stand.substrate.launch(run, template, tier, identity, tap=tap)
        stack.callback(sandbox.destroy)
        sandbox.awaken(TIMEOUT_S)
        sandbox.adopt_identity()
        yield sandbox


def _serve_inside(sandbox: Sandbox) -> _Target:
    word = secrets.token_hex(8)
    sandbox.agent.run(["/bin/sh", "-c", _SERVE.format(word=word, port=PORT)])
    return _Target("neighbour", sandbox.identity.address, PORT, word)


@contextlib.contextmanager
def _serving(name: str, address: IPv4Address, namespace: Path | None) -> Iterator[_Target]:
    """A server in a namespace, or on this host, until the block ends."""
    with inside(namespace) if namespace else contextlib.nullcontext():
        listener = socket.create_server((str(address), 0))
    word = secrets.token_hex(8)
    thread = threading.Thread(target=_serve, args=(listener, word.encode()))
    thread.start()
    try:
        yield _Target(name, address, listener.getsockname()[1], word)
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # which wakes who accepts
        thread.join()
        listener.close()


def _serve(listener: socket.socket, word: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            with listener.accept()[0] as caller:
                caller.sendall(word)


def _reached(sandbox: Sandbox, targets: Sequence[_Target], allowed: set[str]) -> set[str]:
    """The names of those that it reaches, all asked at once: who drops a packet says nothing, and
    is waited for."""
    asks = [_ASK.format(address=one.address, port=one.port) for one in targets]
    script = " & ".join([*asks, "wait"])
    found: set[str] = set()
    tries, deadline = 0, time.monotonic() + PATIENCE_S
    while len(found) < len(targets):
        if tries >= TRIES and (found >= allowed or time.monotonic() > deadline):
            break
        said = sandbox.agent.run(["/bin/sh", "-c", script]).stdout
        found |= {one.name for one in targets if one.word.encode() in said}
        tries += 1
    return found
