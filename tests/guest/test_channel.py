"""The agent's channel to the harness, opened while its device is still starting."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from harness import paths
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
        timer.start()
        began = time.monotonic()
        assert frames.line_open_patiently(os.fsencode(device)) == 0
        assert time.monotonic() - began >= 0.09
        timer.join()
    os.close(frames.line_fd())


def test_a_device_that_never_appears_is_given_up(frames: ctypes.CDLL, tmp_path: Path) -> None:
    assert frames.line_open_patiently(os.fsencode(tmp_path / "nothing")) == -1
    assert ctypes.get_errno() == errno.ENOENT
