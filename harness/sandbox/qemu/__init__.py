"""microVMs under QEMU: with KVM where it works, else with TCG."""

from harness.sandbox.qemu.substrate import QemuSubstrate

__all__ = ["QemuSubstrate"]
