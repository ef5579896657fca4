"""/dev/kvm that is absent, closed to this user, or no such device: one reason and one command."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from harness.errors import MissingPrivilege, Unsupported
from harness.host import kvm_device


def test_one_that_is_absent(tmp_path: Path) -> None:
    found = kvm_device.refusal(tmp_path / "kvm")
    assert isinstance(found, Unsupported) and found.exit_code == 69
    assert "does not exist" in str(found) and "modprobe kvm_intel" in str(found)
    assert not kvm_device.scales_tsc(tmp_path / "kvm")


def test_one_that_is_no_device(tmp_path: Path) -> None:
    (tmp_path / "kvm").write_text("", encoding="utf-8")
    found = kvm_device.refusal(tmp_path / "kvm")
    assert found and "is not KVM's device" in str(found)
    assert "is a file in the place of KVM's" in str(found)
    assert not kvm_device.scales_tsc(tmp_path / "kvm")


def test_one_that_is_another_device() -> None:
    """A mount has hidden it, for example."""
    found = kvm_device.refusal(Path("/dev/null"))
    assert found and "/dev/null is not KVM's device" in str(found)
    assert "is another device in the place of KVM's: remove or unmount it" in str(found)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_one_without_rights(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch(0o660)
    for parent in (tmp_path, tmp_path.parent):
        parent.chmod(0o755)
    before = os.geteuid()
    os.seteuid(65534)
    try:
        found = kvm_device.refusal(device)
    finally:
        os.seteuid(before)
    assert isinstance(found, MissingPrivilege) and found.exit_code == 77
    assert "usermod -aG kvm $USER" in str(found)


@pytest.mark.skipif(os.geteuid() != 0, reason="root has other advice")
def test_root_in_a_container_is_told_of_the_device() -> None:
    found = kvm_device._not_opened(Path("/dev/kvm"), PermissionError(errno.EPERM, "not permitted"))
    assert "--device /dev/kvm" in str(found)


def test_the_command_comes_with_a_vmm_that_found_no_kvm(tmp_path: Path) -> None:
    said = "Could not access KVM kernel module: No such file or directory"
    assert "modprobe" in str(kvm_device.hint_for(said, tmp_path / "kvm"))
    assert kvm_device.hint_for("no room for memory", tmp_path / "kvm") is None
    said = "-accel kvm: failed to initialize kvm: Inappropriate ioctl for device"
    assert "another device in the place" in str(kvm_device.hint_for(said, Path("/dev/null")))
    said = "Could not access KVM kernel module: Permission denied"
    if kvm_device.refusal() is None:
        assert "chmod 666 /dev/kvm" in str(kvm_device.hint_for(said))
