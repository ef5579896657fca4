"""A base class with the capabilities of the plainest substrate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

from harness.errors import Unsupported
from harness.host.run import Run
from harness.sandbox.protocol import Compared, Role, Sharing, Tier

MIB = 1 << 20
ECHO = "/bin/echo"
"""What `Sandbox.first_exec` runs: every image has it."""
SEAL = "/run/sealed"
"""A file written before a checkpoint is taken: a restored sandbox that has it kept its state."""


class SubstrateBase:
    """Capabilities of the plainest substrate: it boots on request, shares the host's kernel and
    cannot be forked.

    A subclass sets `name` and adds `requirements`, `prepare` and `launch`
    (`harness.sandbox.protocol.Substrate`).
    """

    name: str
    own_kernel: bool = False
    kernel_by_choice: bool = False
    """Whether its guests start with the kernel of `coppice run --kernel`."""
    tiers: Sequence[Tier] = (Tier.FULL,)
    sharings: Sequence[Sharing] = ()
    network: bool = False
    role: Role = Role.SUBJECT
    compared: Compared | None = Compared()
    boot_cpu_s: float = 0.0
    tools: Sequence[str] = ()
    not_offered: Mapping[str, str] = MappingProxyType({})

    def memory_per_sandbox(self, tier: Tier) -> int:
        """Host memory that one more sandbox of a tier takes, in bytes; an upper estimate."""
        return 16 * MIB

    def zygote(
        self,
        run: Run,
        template: Any,
        tap: int | None = None,
        sharing: Sharing = Sharing.FORKED,
    ) -> AbstractContextManager[Any]:
        """Raises Unsupported: only substrates with Sharing.FORKED or STARTED can fork sandboxes."""
        has = ", ".join(self.sharings) or "none"
        raise Unsupported(f"{self.name} has no sharing {sharing}; it has {has}")
