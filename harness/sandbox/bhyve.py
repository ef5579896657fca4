"""The bhyve substrate's place: what it needs, and why it does not run here yet.

The driver itself is still to come: checkpoint with `bhyvectl --suspend`, restore with `bhyve -r`,
hold and continue by SIGSTOP and SIGCONT, the agent on com1 as in harness/guest/PROTOCOL.md.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from harness.errors import Unsupported
from harness.host.requirement import Requirement
from harness.host.run import Run
from harness.sandbox.identity import Identity
from harness.sandbox.noop import NoopTemplate
from harness.sandbox.protocol import Sandbox, Tier

COUNTERPART = "mise run bench:qemu-TIER measures the same tier with QEMU on this host"


class BhyveSubstrate:
    """Implements `harness.sandbox.protocol.Substrate` as far as saying what is missing."""

    name = "bhyve"
    own_kernel = True
    tiers = tuple(Tier)
    tools: Sequence[str] = ("bhyve", "bhyvectl")

    def requirements(self) -> Sequence[Requirement]:
        freebsd = sys.platform.startswith("freebsd")
        return [
            Requirement(
                "a FreeBSD host with vmm, and BHYVE_SNAPSHOT for the durable tiers",
                freebsd and shutil.which("bhyve") is not None,
                "this host is FreeBSD" if freebsd else f"this host is {sys.platform.capitalize()}",
                "COPPICE_HOST=ssh://user@host will run it there, once that host driver is written; "
                + COUNTERPART,
            ),
            Requirement("the bhyve driver", False, "not written yet", f"until then: {COUNTERPART}"),
        ]

    def memory_per_sandbox(self, tier: Tier) -> int:
        return self._refuse()

    def prepare(self, run: Run, cache: Path, tier: Tier) -> NoopTemplate:
        return self._refuse(tier)

    def launch(self, run: Run, template: NoopTemplate, tier: Tier, identity: Identity) -> Sandbox:
        return self._refuse(tier)

    def _refuse(self, tier: Tier | None = None) -> NoReturn:
        for need in self.requirements():
            if not need.satisfied:
                remedy = (need.remedy or "").replace("TIER", str(tier or "full"))
                raise Unsupported(f"bhyve needs {need.what}; {need.detail}", hint=remedy)
        raise AssertionError("the driver is one of the requirements")
