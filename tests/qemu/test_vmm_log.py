"""The log of a VMM that may write large files: no writer can make it grow."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness.host.run import Run
from harness.sandbox.qemu.vmm_log import BYTES, BoundedLog, FileLog, VmmLog, kvm_failure, tail


@pytest.mark.parametrize("bounded", [True, False])
def test_a_log_has_what_was_written(tmp_path: Path, bounded: bool) -> None:
    own = Run("run", tmp_path, tmp_path)
    first: VmmLog = BoundedLog.new("vmm") if bounded else FileLog(own, "vmm")
    for log in (first, first.twin(own, "fork")):
        handle = log.opened()
        os.write(handle, b"chardev has no peer\nfirst\nlast\n")
        os.close(handle)
        assert tail(log) == "first | last"
        for _ in range(2):
            log.drop()
        assert log.read() == b""
    assert list(tmp_path.iterdir()) == []


INTERNAL_ERROR = b"""chardev has no peer
KVM internal error. Suberror: 1
extra data[0]: 0x0000000000000001
emulation failure
RAX=0000000000000000 RBX=0000000000000000
"""
"""What QEMU 7.2 wrote when KVM could not emulate an instruction."""


@pytest.mark.parametrize(
    ("written", "failure"),
    [
        (INTERNAL_ERROR, "KVM internal error. Suberror: 1: emulation failure"),
        (b"error: kvm run failed Bad address\nRAX=0\n", "error: kvm run failed Bad address"),
        (b"warning: host doesn't support requested feature\n", ""),
    ],
)
def test_it_says_what_kvm_failed_at(tmp_path: Path, written: bytes, failure: str) -> None:
    log = FileLog(Run("run", tmp_path, tmp_path), "vmm")
    handle = log.opened()
    os.write(handle, written)
    os.close(handle)
    assert kvm_failure(log) == failure


def test_a_bounded_log_cannot_grow() -> None:
    log = BoundedLog.new("vmm")
    handle = log.opened()
    with pytest.raises(PermissionError):
        while os.write(handle, bytes(b"x" * 1000)):
            pass
    with pytest.raises(PermissionError):
        os.pwrite(handle, b"x", 1 << 30)
    with pytest.raises(PermissionError):
        os.ftruncate(handle, 1 << 30)
    assert os.fstat(handle).st_size == BYTES
    os.close(handle)
    log.drop()


def test_the_log_of_another_gateway_s_vmm_is_read() -> None:
    log = BoundedLog.new("vmm")
    handle = log.opened()
    with subprocess.Popen(["sh", "-c", "echo why >&2; read line"], stdin=subprocess.PIPE,
                          stdout=subprocess.DEVNULL, stderr=handle) as process:  # fmt: skip
        os.close(handle)
        while not log.read():
            assert process.poll() is None
        adopted = BoundedLog.of_process("vmm", process.pid)
        log.drop()
        assert process.stdin
        process.stdin.close()
        process.wait()
        assert adopted.read() == b"why\n"
        adopted.drop()
        assert BoundedLog.of_process("vmm", process.pid).read() == b""


def test_what_a_vmm_has_put_in_place_of_its_log_is_not_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    handle = os.open(fifo, os.O_RDWR)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stderr=handle) as process:
        os.write(handle, b"endless")
        assert BoundedLog.of_process("vmm", process.pid).read() == b""
    os.close(handle)
