"""microVMs under FreeBSD's bhyve: booted or restored from a checkpoint, stopped by signals."""

from harness.sandbox.bhyve.substrate import BhyveSubstrate

__all__ = ["BhyveSubstrate"]
