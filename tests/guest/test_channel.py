"""The agent's channel to the harness, opened while its device is still starting."""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import socket
import termios
import threading
import time
from pathlib import Path

import pytest

from harness import paths
from harness.guest.protocol import (
    MORE,
    PAYLOAD_MAX,
    REQUEST_MAX,
    Decoder,
    Frame,
    FrameKind,
    encode,
)
from harness.host.process import run


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The agent's frame.c as a library of this process."""
    library = tmp_path_factory.mktemp("agent") / "frames.so"
    run("gcc", "-shared", "-fPIC", "-D_GNU_SOURCE", "-o", library, paths.AGENT / "frame.c")
    return ctypes.CDLL(str(library), use_errno=True)


def test_a_device_that_cannot_be_opened_yet_is_tried_again(
    frames: ctypes.CDLL, tmp_path: Path
) -> None:
    """As a virtio port is for a moment: in /dev, and ENXIO."""
    device, ready = tmp_path / "device", tmp_path / "ready"
    ready.write_bytes(b"")
    with socket.socket(socket.AF_UNIX) as starting:
        starting.bind(str(device))  # open(2) of a socket is refused with ENXIO
        with pytest.raises(OSError) as refusal:
            device.open("rb")
        assert refusal.value.errno == errno.ENXIO
        timer = threading.Timer(0.1, ready.replace, [device])
        began = time.monotonic()
        timer.start()
        assert frames.line_open_patiently(os.fsencode(device)) == 0
        assert time.monotonic() - began >= 0.09
        timer.join()
    os.close(frames.line_fd())


def test_a_device_that_never_appears_is_given_up(frames: ctypes.CDLL, tmp_path: Path) -> None:
    assert frames.line_open_patiently(os.fsencode(tmp_path / "nothing")) == -1
    assert ctypes.get_errno() == errno.ENOENT


class CFrame(ctypes.Structure):
    """struct frame of frame.h."""

    _fields_ = (
        ("kind", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("id", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
        ("payload", ctypes.POINTER(ctypes.c_uint8)),
    )


def _unread(line: socket.socket) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(line, termios.FIONREAD, count)
    return count[0]


def received(
    frames: ctypes.CDLL, ours: socket.socket, own: socket.socket, sent: list[bytes]
) -> list[Frame]:
    """The requests that the agent gets from these frames."""
    got = []
    for data in sent:
        ours.sendall(data)
        left = len(data)
        while left > 0:
            before = _unread(own)
            assert frames.line_fill(1) == 0
            left -= before - _unread(own)
            found = CFrame()
            while frames.line_next(ctypes.byref(found)):
                payload = ctypes.string_at(found.payload, found.length) if found.length else b""
                got.append(Frame(found.kind, found.id, payload))
    return got


def test_a_request_in_several_frames_is_put_together(frames: ctypes.CDLL) -> None:
    ours, own = socket.socketpair()
    with ours, own:
        frames.line_use(own.fileno(), own.fileno())
        parts = [encode(4, 7, b"one, ", MORE), encode(4, 7, b"two, ", MORE), encode(4, 7, b"three")]
        whole = Frame(4, 7, b"one, two, three")
        assert received(frames, ours, own, parts) == [whole]
        assert (
            received(frames, ours, own, [b"".join(parts), b"noise" + b"".join(parts)])
            == [whole] * 2
        )
        # Its sender may die in the middle, and another begin.
        for next_request in (encode(4, 8, b"other"), encode(1, 7, b"other")):
            got = received(frames, ours, own, [*parts[:2], next_request, parts[2]])
            assert [found.payload for found in got] == [b"other", b"three"]
        for nothing in ([encode(4, 9, b"", MORE), encode(4, 9, b"")], [encode(4, 9, b"")]):
            assert received(frames, ours, own, nothing) == [Frame(4, 9, b"")]


def test_a_request_that_is_too_long_is_refused_and_the_next_is_served(frames: ctypes.CDLL) -> None:
    ours, own = socket.socketpair()
    with ours, own:
        frames.line_use(own.fileno(), own.fileno())
        piece = encode(4, 7, bytes(PAYLOAD_MAX), MORE)
        ours.settimeout(60)
        count = REQUEST_MAX // PAYLOAD_MAX
        assert received(
            frames, ours, own, [piece] * count + [encode(4, 7, b"x"), encode(1, 8, b"y")]
        ) == [Frame(1, 8, b"y")]
        frames.line_flush()
        (answer,) = Decoder().feed(ours.recv(4096))
        assert (answer.kind, answer.id) == (FrameKind.ERROR, 7)
        assert int.from_bytes(answer.payload[:4], "little") == errno.E2BIG
        (longest,) = received(
            frames, ours, own, [piece] * (count - 1) + [encode(4, 7, bytes(PAYLOAD_MAX))]
        )
        assert len(longest.payload) == REQUEST_MAX
