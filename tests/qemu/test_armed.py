"""Waiting for a guest at its doorbell, whatever its kernel prints before."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from harness.errors import GuestTimeout
from harness.guest.protocol import MASKED, UNMASKED
from harness.sandbox.qemu.armed import KEPT, await_armed


@pytest.fixture
def bell() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, guests = socket.socketpair()
    with ours, guests:
        yield ours, guests


Bell = tuple[socket.socket, socket.socket]


@pytest.mark.parametrize(("told", "masked"), [(MASKED, True), (UNMASKED, False)])
@pytest.mark.parametrize("printed", [b"", b"[    0.1] RCU: Ready\r\n", b"R" * 3 * KEPT])
def test_what_a_kernel_prints_is_skipped(
    bell: Bell, printed: bytes, told: bytes, masked: bool
) -> None:
    bell[1].sendall(printed + told)
    assert await_armed(bell[0], "guest", 5) is masked


def test_a_message_may_come_in_pieces(bell: Bell) -> None:
    bell[1].sendall(b"Ready" + MASKED[:1])
    later = threading.Timer(0.1, bell[1].sendall, [MASKED[1:]])
    later.start()
    assert await_armed(bell[0], "guest", 5) is True
    later.join()


def test_what_was_printed_is_shown_when_the_guest_does_not_come(bell: Bell) -> None:
    bell[1].sendall(b"Kernel panic - not syncing: no R here\r\n")
    with pytest.raises(GuestTimeout, match=r"did not reach.* printed: Kernel panic - not syncing"):
        await_armed(bell[0], "guest", 0.05)
    with pytest.raises(GuestTimeout, match=r"in 0\.05 s$"):
        await_armed(bell[0], "guest", 0.05)


def test_a_guest_that_prints_without_end_is_given_up(bell: Bell) -> None:
    done = threading.Event()

    def print_on() -> None:
        bell[1].settimeout(0.05)
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                bell[1].send(b"x" * 1000)

    printer = threading.Thread(target=print_on)
    printer.start()
    try:
        with pytest.raises(GuestTimeout, match="xxx"):
            await_armed(bell[0], "guest", 0.2)
    finally:
        done.set()
        printer.join()


def test_a_closed_bell_is_no_answer(bell: Bell) -> None:
    bell[1].close()
    assert await_armed(bell[0], "guest", 5) is None
