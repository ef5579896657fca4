"""Numbered datagrams from one endpoint to another, and which of them arrived.

The programs `flood` and `sink` send and receive; both are pinned, so that one does not stop the
other.
"""

from __future__ import annotations

import array
import bisect
import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harness.errors import SandboxError
from harness.host.run import Run
from harness.procedures import packet_filters
from harness.procedures.jail_endpoint import JailEndpoint
from harness.procedures.namespace_endpoint import Endpoint
from harness.procedures.peers import build

_ARRIVES_S = 0.002
"""How long the last datagram may take to the receiver."""


@dataclass(frozen=True)
class Traffic:
    """When each datagram was sent, and whether it arrived, both by its number. They go to `ports`
    in turn."""

    sent_ns: Sequence[int]
    arrived: bytearray
    ports: Sequence[int]

    def port(self, number: int) -> int:
        return self.ports[number % len(self.ports)]

    def between(self, start_ns: int, end_ns: int) -> range:
        """The numbers of the datagrams that were sent, and had left, between two times."""
        begin = bisect.bisect_left(self.sent_ns, start_ns)
        # A datagram has left for certain only when the time of the next was taken.
        return range(begin, bisect.bisect_left(self.sent_ns, end_ns, begin) - 1)


class Flow:
    """Datagrams under way. `traffic` stops them; it may be called once."""

    def __init__(
        self,
        flood: subprocess.Popen[bytes],
        sink: subprocess.Popen[bytes],
        files: tuple[Path, Path],
        ports: Sequence[int],
    ) -> None:
        self._flood, self._sink = flood, sink
        self._files = files
        self._ports = ports

    def traffic(self) -> Traffic:
        """Stop sending; what was sent and what arrived. Raises SandboxError."""
        _finish(self._flood)
        time.sleep(_ARRIVES_S)
        lost = int(_finish(self._sink))
        if lost:
            raise SandboxError(
                f"the receiver's socket dropped {lost} datagrams, so losses do not show "
                "enforcement",
                hint="coppice run policy-enforcement --rate DATAGRAMS_PER_SECOND",
            )
        times, numbers = array.array("Q"), array.array("Q")
        for file, into in zip(self._files, (times, numbers), strict=True):
            into.frombytes(file.read_bytes())
        marks = bytearray(len(times))
        for number in numbers:
            marks[number] = 1
        return Traffic(times, marks, self._ports)


@contextlib.contextmanager
def flowing(
    run: Run,
    source: Endpoint | JailEndpoint,
    target: Endpoint | JailEndpoint,
    rate: int,
    ports: Sequence[int],
) -> Iterator[Flow]:
    """Send from `source` to `target` until the block ends: `rate` datagrams per second, or as many
    as a core can where it is 0. Raises SandboxError."""
    with ExitStack() as stack:
        sender = stack.enter_context(packet_filters.peer(run, source))
        receiver = stack.enter_context(packet_filters.peer(run, target))
        sender.pin(0)
        receiver.pin(1)
        named = [str(port) for port in ports]
        arrived, sent = (run.directory / f"{what}-{source.id}" for what in ("arrived", "sent"))
        sink = receiver.start(
            [str(build("sink", run.directory)), str(arrived), *named], listens=True
        )
        _ready(sink)
        flood = sender.start(
            [str(build("flood", run.directory)), target.address, str(sent), str(rate), *named],
            listens=True,
        )
        _ready(flood)
        yield Flow(flood, sink, (sent, arrived), ports)


def _ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout
    line = process.stdout.readline()
    if line != b"ready\n":
        output = (line + process.stdout.read()).decode()
        raise SandboxError(f"the traffic program did not start: {output}")


def _finish(process: subprocess.Popen[bytes]) -> str:
    output, _ = process.communicate(timeout=60)
    if process.returncode:
        raise SandboxError(
            f"the traffic program exited with {process.returncode}: {output.decode()}"
        )
    return output.decode()
