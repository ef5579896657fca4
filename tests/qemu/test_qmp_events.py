"""Events that no caller waits for: they are read, and no VMM keeps another from its turn."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from harness.gateway.fleets.event_drain import EventDrain
from harness.sandbox.qemu.qmp import EVENTS_MAX, Qmp

EVENT = json.dumps({"event": "BLOCK_IO_ERROR", "data": {"action": "report"}}).encode() + b"\n"


@contextlib.contextmanager
def channel() -> Iterator[tuple[Qmp, socket.socket]]:
    ours, vmm = socket.socketpair()
    vmm.settimeout(30)
    qmp = Qmp(ours, "a VMM")
    with ours, vmm:
        yield qmp, vmm


@pytest.fixture
def drain() -> Iterator[EventDrain]:
    made = EventDrain()
    yield made
    made.close()


def test_a_vmm_that_reports_many_errors_is_not_blocked(drain: EventDrain) -> None:
    with channel() as (qmp, vmm):
        drain.watch(qmp)
        for _ in range(20_000):  # blocks, and times out, unless they are read
            vmm.sendall(EVENT)
        assert len(qmp._events) <= EVENTS_MAX
        qmp.close()


def test_commands_get_their_replies_among_events(drain: EventDrain) -> None:
    with channel() as (qmp, vmm):
        drain.watch(qmp)

        def serve() -> None:
            for number in range(200):
                request = json.loads(vmm.makefile("rb").readline())
                vmm.sendall(EVENT * 50 + json.dumps({"return": number}).encode() + b"\n")
                assert request["execute"] == "query"

        thread = threading.Thread(target=serve)
        thread.start()
        assert [qmp.execute("query") for _ in range(200)] == list(range(200))
        thread.join()
        qmp.close()


def test_a_vmm_without_end_takes_nothing_from_the_others(drain: EventDrain) -> None:
    with channel() as (endless, noisy), channel() as (qmp, vmm):
        drain.watch(endless)
        drain.watch(qmp)
        stop = threading.Event()

        def flood() -> None:
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    noisy.sendall(EVENT * 500)

        thread = threading.Thread(target=flood)
        thread.start()
        deadline = time.monotonic() + 30
        for _ in range(2_000):
            vmm.sendall(EVENT)
        stop.set()
        thread.join()
        assert time.monotonic() < deadline
        endless.close()
        qmp.close()


def test_what_is_no_qmp_leaves_the_thread_alive(drain: EventDrain) -> None:
    with channel() as (broken, vmm), channel() as (qmp, other):
        drain.watch(broken)
        drain.watch(qmp)
        vmm.sendall(b'[]\n"x"\nnot json\n\xff\n{"return": {}}\n')
        for _ in range(20_000):
            other.sendall(EVENT)
        broken.close()
        qmp.close()
