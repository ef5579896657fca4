"""What a networked sandbox reaches: a neighbour, its host, and two endpoints on its network.

Each target sends a random word to every client; a sandbox that has the word has reached the target.
This is done under a policy that allows one target, and again under one that allows all of them: a
target that is reached only then was available before, and was blocked by the policy.
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
from harness.network.namespace import inside
from harness.network.policy import Policy
from harness.network.uplink import GATEWAYS, THERE
from harness.procedures.columns import TIMEOUT_S, Stand
from harness.procedures.namespace_endpoint import endpoint
from harness.sandbox.oci.substrate import OciTemplate
from harness.sandbox.protocol import Sandbox

PORT = 7007
TRIES = 2
"""Attempts: a guest whose neighbour discovery failed retries it only after a while."""
PATIENCE_S = 10.0
_SERVE = "while :; do echo {word} | busybox nc -l -p {port}; done >/dev/null 2>&1 </dev/null &"
_ASK = "busybox nc -w 1 {address} {port} </dev/null"


@dataclass(frozen=True)
class Reached:
    """One result. `policy`: whether the policy in force allowed `one` target or `all` of them;
    `allowed`: whether it allowed this one."""

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
    """What a sandbox of a column reaches, on a network of its own with an uplink to this host.

    Raises SandboxError when an allowed target is not reached: then the result proves nothing.
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
        # Root inside may do so: the isolation must not depend on the sandbox's configuration.
        attacker.agent.run(["/bin/ip", "route", "add", "default", "via", str(GATEWAYS[0])])
        found: list[Reached] = []
        for policy, allowed in (("one", targets[-1:]), ("all", targets)):
            net.apply(attacker.id, Policy.of([str(target.address) for target in allowed]))
            reached = _reached(attacker, targets, {target.name for target in allowed})
            found += [
                Reached(target.name, policy, target in allowed, target.name in reached)
                for target in targets
            ]
        missed = [result.target for result in found if result.allowed and not result.reached]
        if missed:
            raise SandboxError(
                f"{stand.column} does not reach {', '.join(missed)} although its policy allows it"
            )
        return found


@contextlib.contextmanager
def _attached(stand: Stand, run: Run, net: Cubenet) -> Iterator[Sandbox]:
    """A sandbox that answers, on this network, with nothing allowed."""
    identity = allocate(run.leases, run.id)
    tier, template, tap = stand.column.tier, stand.template, None
    with ExitStack() as stack:
        if isinstance(template, OciTemplate):
            template = replace(template, net=net)  # its sandboxes attach and detach themselves
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
    thread = threading.Thread(target=_serve, args=(listener, word.encode()), daemon=True)
    thread.start()
    try:
        yield _Target(name, address, listener.getsockname()[1], word)
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept
        thread.join()
        listener.close()


def _serve(listener: socket.socket, word: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            with listener.accept()[0] as caller:
                caller.sendall(word)


def _reached(sandbox: Sandbox, targets: Sequence[_Target], allowed: set[str]) -> set[str]:
    """The names of the targets that it reaches, all tried at once: a dropped packet is noticed only
    by a timeout."""
    asks = [_ASK.format(address=target.address, port=target.port) for target in targets]
    script = " & ".join([*asks, "wait"])
    found: set[str] = set()
    tries, deadline = 0, time.monotonic() + PATIENCE_S
    while len(found) < len(targets):
        if tries >= TRIES and (found >= allowed or time.monotonic() > deadline):
            break
        output = sandbox.agent.run(["/bin/sh", "-c", script]).stdout
        found |= {target.name for target in targets if target.word.encode() in output}
        tries += 1
    return found
