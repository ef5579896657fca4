"""The least sandbox that has a network: a namespace with a card on cubenet, and no more."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.host.process import need
from harness.host.run import Run
from harness.network.cubenet import NOTHING, Cubenet, Port
from harness.network.namespace import inside, namespace
from harness.network.policy import Policy
from harness.sandbox.identity import Identity, allocate


@dataclass(frozen=True)
class Endpoint:
    """A namespace and who it is on the network."""

    identity: Identity
    namespace: Path
    port: Port

    @property
    def address(self) -> str:
        return str(self.identity.address)

    @property
    def address6(self) -> str:
        return str(self.identity.address6)


@contextlib.contextmanager
def endpoint(run: Run, net: Cubenet, policy: Policy = NOTHING) -> Iterator[Endpoint]:
    """A new endpoint of a run on its network, until the block ends."""
    identity = allocate(run.leases, run.id)
    try:
        with namespace(run.folder / f"endpoint-{identity.id}") as path:
            port = net.attach_netns(identity, path, policy)
            try:
                yield Endpoint(identity, path, port)
            finally:
                net.detach(identity.id)
    finally:
        identity.release()


@contextlib.contextmanager
def program(
    run: Run, where: Path | None, words: Sequence[str], cores: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A program of a run in a namespace (None: this one), killed when the block ends.

    `cores` are those it may run on; its output is a pipe.
    """
    pinned = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
    argv = [*pinned, need(words[0]), *words[1:]]
    with contextlib.ExitStack() as stack:
        if where is not None:
            stack.enter_context(inside(where))
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(run.environment),
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
