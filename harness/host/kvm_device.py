"""/dev/kvm: whether this process can use it, and the command that helps where it cannot."""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import stat
from pathlib import Path

from harness.errors import CoppiceError, MissingPrivilege, Unsupported

KVM = Path("/dev/kvm")
API = 12
"""The version of KVM's interface since Linux 2.6.22; there is no other."""
_GET_API_VERSION, _CHECK_EXTENSION = 0xAE00, 0xAE03
_NUMBERS = os.makedev(10, 232)
"""Linux gives them to /dev/kvm on every host."""
_TSC_CONTROL, _IMMEDIATE_EXIT = 60, 136
_QEMU_REFUSED = "Could not access KVM kernel module", "failed to initialize kvm"
"""What QEMU says when /dev/kvm does not open, and when it is not KVM's."""
_LOAD = "modprobe kvm_intel   (AMD: kvm_amd); in a VM, its host must allow nested virtualisation"


def refusal(device: Path = KVM) -> CoppiceError | None:
    """Why KVM cannot be used: MissingPrivilege or Unsupported, to be raised or told. None where its
    device opens and is one, which does not mean that a guest runs."""
    try:
        handle = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return _not_opened(device, error)
    try:
        version = fcntl.ioctl(handle, _GET_API_VERSION)
    except OSError as error:
        return Unsupported(
            f"{device} is not KVM's device: {error.strerror}", hint=_is_other(device)
        )
    finally:
        os.close(handle)
    if version != API:
        return Unsupported(f"{device} has version {version} of KVM's interface, not {API}")
    return None


def _not_opened(device: Path, error: OSError) -> CoppiceError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return MissingPrivilege(
            f"{device} may not be opened by this user: {error.strerror}", hint=_admit(device)
        )
    if error.errno == errno.ENOENT:
        return Unsupported(f"{device} does not exist: this kernel offers no KVM", hint=_LOAD)
    return Unsupported(f"{device} does not open: {error.strerror}", hint=_LOAD)


def _is_other(device: Path) -> str:
    found = device.stat()
    if stat.S_ISCHR(found.st_mode) and found.st_rdev == _NUMBERS:
        return _LOAD
    kind = "another device" if stat.S_ISCHR(found.st_mode) else "a file"
    return f"{device} is {kind} in the place of KVM's: remove or unmount it, then {_LOAD}"


def _admit(device: Path) -> str:
    if os.geteuid() == 0:
        return f"give this container the device: --device {device}"
    group = "kvm"
    try:
        owned_by = device.stat().st_gid
        group = grp.getgrgid(owned_by).gr_name if owned_by else group
    except (OSError, KeyError):
        pass
    return f"usermod -aG {group} $USER   as root, then log in again"


def scales_tsc(device: Path = KVM) -> bool:
    """Whether a guest's TSC can have another rate than the host's."""
    return _has(_TSC_CONTROL, device)


def exits_at_once(device: Path = KVM) -> bool:
    """Whether a vCPU can be entered for no more than completing its last exit (Linux 4.12)."""
    return _has(_IMMEDIATE_EXIT, device)


def _has(capability: int, device: Path) -> bool:
    try:
        handle = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return fcntl.ioctl(handle, _CHECK_EXTENSION, capability) > 0
    except OSError:
        return False
    finally:
        os.close(handle)


def hint_for(stderr: str, device: Path = KVM) -> str | None:
    """The command that helps a VMM whose stderr says that it found no KVM; None for any other."""
    if not any(refused in stderr for refused in _QEMU_REFUSED):
        return None
    found, again = refusal(device), "COPPICE_ACCELERATOR=tcg does without it"
    if found is None and "Permission denied" in stderr:  # the jail could not make its own device
        return f"a confined VMM may not open it: chmod 666 {device}; {again}"
    return f"{found.hint}; {again}" if found and found.hint else again
