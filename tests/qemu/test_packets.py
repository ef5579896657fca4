"""Who moves a guest's packets. This suite's hosts may have no vhost-net: where a test needs that
device, a fake stands in, which its name says."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harness.errors import GuestDied
from harness.host.identity import allocate
from harness.host.run import Run
from harness.measure import used_images
from harness.network import links
from harness.sandbox.lifetime import destroyed_on_failure
from harness.sandbox.qemu import packets
from harness.sandbox.qemu.jail import jail_for
from harness.sandbox.qemu.machine import Descriptors, Shape, arguments
from harness.sandbox.qemu.packets import QEMU, VHOST, examine, netdev, opened
from harness.sandbox.qemu.vmm import Vmm, spawn

TUN = Path("/dev/net/tun")


@pytest.fixture
def fake_vhost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in place of the device, of which no request is made."""
    device = tmp_path / "fake-vhost-net"
    device.touch()
    monkeypatch.setattr(packets, "DEVICE", device)
    monkeypatch.setattr(packets, "_asked", lambda handle, at: packets.Mover(VHOST, f"{at} opens"))
    return device


@pytest.fixture
def noted() -> Iterator[list[dict[str, object]]]:
    """What records would say of packets, filled by `facts`."""
    used_images.forget()
    yield []
    used_images.forget()


def facts() -> dict[str, object]:
    (image,) = (image for image in used_images.and_used(()) if image.name == "packets")
    return dict(image.built_from)


def test_a_host_without_the_device_says_why(tmp_path: Path) -> None:
    found = examine(tmp_path / "vhost-net")
    assert found.by == QEMU and "No such file" in found.reason


def test_another_device_of_that_name_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "vhost-net").touch()
    found = examine(tmp_path / "vhost-net")
    assert found.by == QEMU and "is no vhost-net" in found.reason


def test_this_hosts_device_is_used_if_it_has_one() -> None:
    assert examine().by == (VHOST if packets.DEVICE.exists() else QEMU)


@pytest.mark.parametrize(("accelerator", "by"), [("kvm", VHOST), ("tcg", QEMU)])
def test_it_is_opened_for_guests_under_kvm_alone(
    fake_vhost: Path, noted: list[dict[str, object]], accelerator: str, by: str
) -> None:
    with opened(accelerator, None) as handle:
        assert handle is None and not used_images.and_used(())
    with opened(accelerator, 7) as handle:
        assert (handle is not None) is (by == VHOST)
        if handle is not None:
            assert os.path.samestat(os.fstat(handle), fake_vhost.stat())
    assert facts()["moved_by"] == by
    if handle is not None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(handle)


def test_qemu_is_told() -> None:
    assert netdev(5, None) == "tap,id=net,fd=5,vhost=off"
    assert netdev(5, 6) == "tap,id=net,fd=5,vhost=on,vhostforce=on,vhostfd=6"


@pytest.mark.skipif(os.geteuid() != 0 or not TUN.exists(), reason="needs root and /dev/net/tun")
def test_a_confined_vmm_has_its_descriptor_and_may_use_it(run: Run) -> None:
    """A fake, a tap without an interface, which refuses requests of vhost-net with an error of its
    own: it shows that the descriptor is there and that the filter lets requests pass."""
    shape, identity = Shape("tcg"), allocate(run.leases, run.id)
    fake, tap = os.open(TUN, os.O_RDWR), links.tap(run.object_name(identity.id))

    def argv(ends: Descriptors) -> Sequence[str]:
        return [*arguments(shape, "vhost-try", ends, tap=tap, vhost=fake), "-S"]

    try:
        vmm: Vmm = spawn(
            run, "vhost-try", argv, incoming=True, given=[fake, tap],
            jail=jail_for(run, identity, shape),
        )  # fmt: skip
        with destroyed_on_failure(_Ends(vmm)), pytest.raises(GuestDied) as refusal:
            vmm.greeting(30)
        vmm.kill()
    finally:
        os.close(fake)
        os.close(tap)
        identity.release()
    assert "vhost" in str(refusal.value)
    assert os.strerror(errno.EBADFD) in str(refusal.value), "the filter's refusal is ENOTTY"


class _Ends:
    """A VMM without a guest, to be killed when a test fails."""

    def __init__(self, vmm: Vmm) -> None:
        self.destroy = vmm.kill
