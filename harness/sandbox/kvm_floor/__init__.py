"""kvm-floor: VMs of KVM without a kernel in them, which show what a host's hardware allows."""

from harness.sandbox.kvm_floor.substrate import KvmFloorSubstrate

__all__ = ["KvmFloorSubstrate"]
