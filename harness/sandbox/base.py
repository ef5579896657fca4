"""What a substrate has unless it says otherwise: a base class for those that add little."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from harness.errors import Unsupported
from harness.host.run import Run
from harness.sandbox.protocol import Compared, Role, Sharing, Tier

MIB = 1 << 20


class SubstrateBase:
    """Capabilities of the plainest substrate: boots on request, shares a kernel, cannot be forked.

    A subclass sets `name` and adds `requirements`, `prepare` and `launch`
    (`harness.sandbox.protocol.Substrate`).
    """

    name: str
    own_kernel: bool = False
    tiers: Sequence[Tier] = (Tier.FULL,)
    sharings: Sequence[Sharing] = ()
    network: bool = False
    role: Role = Role.SUBJECT
    compared: Compared | None = Compared()
    boot_cpu_s: float = 0.0
    tools: Sequence[str] = ()

    def memory_per_sandbox(self, tier: Tier) -> int:
        """Bytes that one more sandbox of a tier takes from the host, estimated from above."""
        return 16 * MIB

    def zygote(
        self, run: Run, template: Any, tap: int | None = None
    ) -> AbstractContextManager[Any]:
        """Raises Unsupported: only substrates with Sharing.FORKED can fork sandboxes."""
        raise Unsupported(f"{self.name} sandboxes cannot be forked")
