"""microVMs under FreeBSD's bhyve: booted, restored from a checkpoint, held by signals."""

from harness.sandbox.bhyve.substrate import BhyveSubstrate

__all__ = ["BhyveSubstrate"]
