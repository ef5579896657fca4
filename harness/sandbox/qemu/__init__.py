"""microVMs under QEMU: KVM where it really works, else TCG."""

from harness.sandbox.qemu.substrate import QemuSubstrate

__all__ = ["QemuSubstrate"]
