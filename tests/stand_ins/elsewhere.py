"""Another machine's network for tests: two namespaces of a run with a line between them.

What serves in the far one is a foreign address for what runs in the near one. This host's own
network has no part in it, and both namespaces go with the run.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

from harness.gateway.gateway_process import GatewayProcess, running_gateway
from harness.gateway.sandboxes.store import Limits
from harness.host.own_thread import in_own_thread
from harness.host.run import Run
from harness.network import links
from harness.network.links import Links
from harness.network.namespace import inside, namespace

NEAR, FAR = "198.51.100.1", "198.51.100.2"
NIC = "line"
_PREFIX = 24
_MAC = bytes.fromhex("02c000000002")
_MOST_FRAME = 1 << 16
T = TypeVar("T")


@dataclass(frozen=True)
class Elsewhere:
    """Two namespaces; `FAR` is the address of the far one."""

    near: Path
    far: Path

    def from_near(self, work: Callable[[], T]) -> T:
        """Call `work` in a thread in the near namespace: its result."""
        results: list[T] = []

        def there() -> None:
            with inside(self.near):
                results.append(work())

        in_own_thread(there)
        return results[0]


@contextlib.contextmanager
def elsewhere(run: Run, one_way_s: float = 0.0) -> Iterator[Elsewhere]:
    """Two namespaces of a run, connected by a veth pair; with `one_way_s`, by taps between which
    each frame waits that long (kernels without netem cannot delay)."""
    with (
        namespace(run.directory, "near") as near,
        namespace(run.directory, "far") as far,
        contextlib.ExitStack() as stack,
    ):
        if one_way_s:
            stack.enter_context(_slow_line(near, far, one_way_s))
        else:
            handle = os.open(far, os.O_RDONLY)
            try:
                with inside(near), contextlib.closing(Links()) as own:
                    own.send(links.pair(NIC, NIC, handle, _MAC))
            finally:
                os.close(handle)
        for path, address in ((near, NEAR), (far, FAR)):
            with inside(path), contextlib.closing(Links()) as own:
                index = own.index(NIC)
                own.send(links.up(links.LOOPBACK))
                own.send(links.up(index))
                own.send(links.address(index, IPv4Address(address), _PREFIX))
        yield Elsewhere(near, far)


@contextlib.contextmanager
def _slow_line(near: Path, far: Path, one_way_s: float) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        taps = []
        for path in (near, far):
            with inside(path):
                taps.append(links.tap(NIC))
            stack.callback(os.close, taps[-1])
        stopped, stop = os.pipe()
        stack.callback(os.close, stopped)
        carrier = threading.Thread(target=_carry, args=(taps, stopped, one_way_s), daemon=True)
        carrier.start()
        stack.callback(carrier.join)
        stack.callback(os.close, stop)
        yield


def _carry(taps: list[int], stopped: int, one_way_s: float) -> None:
    """Write to each tap what the other one sends, later; until the pipe `stopped` is closed."""
    waiting: deque[tuple[float, int, bytes]] = deque()
    across = dict(zip(taps, reversed(taps), strict=True))
    while True:
        timeout = max(waiting[0][0] - time.monotonic(), 0) if waiting else None
        readable, _, _ = select.select([*taps, stopped], [], [], timeout)
        if stopped in readable:
            return
        for tap in readable:
            frame = os.read(tap, _MOST_FRAME)
            waiting.append((time.monotonic() + one_way_s, across[tap], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, tap, frame = waiting.popleft()
            with contextlib.suppress(OSError):  # the interface is not up yet
                os.write(tap, frame)


@contextlib.contextmanager
def gateway_elsewhere(
    run: Run, there: Elsewhere, *options: str, host: str = FAR, limits: Limits | None = None
) -> Iterator[GatewayProcess]:
    """A gateway that serves in the far namespace only, until the block ends. Its own methods that
    send requests are for threads in the near one."""
    with contextlib.ExitStack() as stack:
        with inside(there.far):
            served = stack.enter_context(
                running_gateway(run, "--host", host, *options, limits=limits)
            )
        yield served
