"""/dev/kvm that goes away while a run has VMMs: confined ones have a device of their own, and
others fail with the command that helps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.host import kvm_device

PROGRAM = Path(__file__).with_name("kvm_taken_away.py")
OWN_DEV = """
set -e
mount -t tmpfs tmpfs "$1"
for name in null zero full random urandom kvm; do cp -a /dev/$name "$1"/; done
ln -s /proc/self/fd "$1"/fd
mkdir "$1"/shm
mount --bind "$1" /dev
shift
exec "$@"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
@pytest.mark.skipif(
    kvm_device.refusal() is not None, reason=f"KVM cannot be used: {kvm_device.refusal()}"
)
def test_vmms_after_their_device_went_away(tmp_path: Path) -> None:
    devices = tmp_path / "dev"
    devices.mkdir()
    program = [sys.executable, str(PROGRAM), str(tmp_path)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", OWN_DEV, "sh", devices, *program],
        capture_output=True,
        encoding="utf-8",
        check=False,
        cwd=Path.cwd(),
    )
    lines = done.stdout.splitlines()
    assert lines[:3] == ["full before ran", "full after ran", "none before ran"], done.stderr
    assert "Could not access KVM kernel module" in lines[3]
    assert "modprobe kvm_intel" in lines[3] and "COPPICE_ACCELERATOR=tcg" in lines[3]
    assert kvm_device.KVM.exists(), "the host's own is untouched"
