"""QMP of a VMM that its guest has taken over: typed errors, and bounds."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from harness.errors import AnswerTooLong, GuestDied, MalformedAnswer, SandboxError
from harness.sandbox.qemu.qmp import EVENTS_MAX, MESSAGE_MAX, Qmp

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2}}}}
STATUS = {"event": "MIGRATION", "data": {"status": "completed"}}
RESUME = {"event": "RESUME", "timestamp": {"seconds": 5, "microseconds": 500_000}}


def version_after_greeting(qmp: Qmp) -> tuple[int, int]:
    qmp.greeting(5)
    return qmp.version


CALLS: list[tuple[Callable[[Qmp], Any], Any, Any]] = [
    (version_after_greeting, GREETING, (7, 2)),
    (lambda qmp: qmp.execute("stop"), {"return": {"a": 1}}, {"a": 1}),
    (lambda qmp: qmp.wait_status(5), STATUS, "completed"),
    (lambda qmp: qmp.wait_resumed(5), RESUME, 5.5),
]


def answered(data: bytes, call: Callable[[Qmp], Any]) -> Any:
    """What a call returns when the VMM sends these bytes and ends."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        with contextlib.suppress(OSError):  # the call has ended before it was all sent
            theirs.sendall(data)
            theirs.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    with theirs:
        thread.start()
        qmp = Qmp(ours, "vm")
        try:
            return call(qmp)
        finally:
            qmp.close()
            theirs.close()
            thread.join()


@pytest.mark.parametrize(("call", "message", "value"), CALLS)
def test_a_call_returns_what_the_vmm_answers(
    call: Callable[[Qmp], Any], message: Any, value: Any
) -> None:
    assert answered(json.dumps(message).encode() + b"\n", call) == value


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b"7", b"\xff", b"[" * 100_000, b'{"event": 7}', b'{"QMP": []}', b"null"]
)
@pytest.mark.parametrize(("call", "message", "value"), CALLS)
def test_what_is_no_message_is_a_typed_error(
    call: Callable[[Qmp], Any], message: Any, value: Any, line: bytes
) -> None:
    with pytest.raises((MalformedAnswer, GuestDied)):
        answered(line + b"\n", call)


def test_messages_that_lack_something_are_typed_errors() -> None:
    pick = random.Random(16)
    odd: tuple[Any, ...] = (None, 7, "x", [], {}, 1e300, -1, True, "é" * 100)

    def spoilt(part: Any) -> Any:
        if pick.random() < 0.3:
            return pick.choice(odd)
        if not isinstance(part, dict):
            return part
        return {name: spoilt(inner) for name, inner in part.items() if pick.random() < 0.8}

    ends = set()
    for _ in range(2000):
        call, message, _ = pick.choice(CALLS)
        try:
            answered(json.dumps(spoilt(message)).encode() + b"\n", call)
            ends.add("returned")
        except SandboxError as error:
            ends.add(type(error).__name__)
    assert {"returned", "MalformedAnswer", "GuestDied"} <= ends


def test_an_endless_message_is_given_up() -> None:
    with pytest.raises(AnswerTooLong):
        answered(b"x" * (MESSAGE_MAX + (1 << 18)), lambda qmp: qmp.execute("stop"))


def test_only_the_latest_events_are_kept() -> None:
    events = b"".join(b'{"event": "E%d"}\n' % number for number in range(2 * EVENTS_MAX))

    def call(qmp: Qmp) -> int:
        qmp.execute("stop")
        return len(qmp._events)

    assert answered(events + b'{"return": {}}\n', call) == EVENTS_MAX
