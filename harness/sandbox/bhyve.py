"""The bhyve substrate's place: what it needs, and why it does not run here yet.

The driver itself is still to come: checkpoint with `bhyvectl --suspend`, restore with `bhyve -r`,
hold and continue by SIGSTOP and SIGCONT, the agent on com1 as in harness/guest/PROTOCOL.md.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn

from harness.errors import Unsupported
from harness.host.requirement import Requirement
from harness.host.run import Run
from harness.sandbox.identity import Identity
from harness.sandbox.noop import NoopTemplate
from harness.sandbox.protocol import Sandbox, Sharing, Tier

COUNTERPART = "mise run bench:qemu-TIER measures the same tier with QEMU on this host"
VMM = Path("/dev/vmmctl")
"""There as soon as vmm is loaded; older FreeBSD has /dev/vmm only while a guest lives."""


class BhyveSubstrate:
    """Implements `harness.sandbox.protocol.Substrate` as far as saying what is missing.

    Everything that would make a sandbox raises Unsupported (exit code 69).
    """

    name = "bhyve"
    own_kernel = True
    tiers = tuple(Tier)
    sharings = (Sharing.PRIVATE, Sharing.MAPPED)
    tools: Sequence[str] = ("bhyve", "bhyvectl")

    def requirements(self) -> Sequence[Requirement]:
        """On FreeBSD line by line; elsewhere the one that rules the others out. The driver last.

        TIER in a remedy stands for the tier that was asked for.
        """
        if sys.platform.startswith("freebsd"):
            lines = _on_freebsd()
        else:
            lines = [
                Requirement(
                    "a FreeBSD host with vmm, and BHYVE_SNAPSHOT for the durable tiers",
                    False,
                    f"this host is {sys.platform.capitalize()}",
                    "COPPICE_HOST=ssh://user@host will run it there, once the ssh host is there; "
                    f"until then {COUNTERPART}",
                )
            ]
        driver = Requirement("its driver", False, "which is not written yet", COUNTERPART)
        return [*lines, driver]

    def memory_per_sandbox(self, tier: Tier) -> int:
        return self._refuse(tier)

    def prepare(self, run: Run, cache: Path, tier: Tier) -> NoopTemplate:
        return self._refuse(tier)

    def launch(
        self,
        run: Run,
        template: NoopTemplate,
        tier: Tier,
        identity: Identity,
        sharing: Sharing = Sharing.MAPPED,
        tap: int | None = None,
    ) -> Sandbox:
        return self._refuse(tier)

    def zygote(
        self, run: Run, template: NoopTemplate, tap: int | None = None
    ) -> AbstractContextManager[NoopTemplate]:
        raise Unsupported("a bhyve guest cannot be forked: the kernel holds its state")

    def _refuse(self, tier: Tier) -> NoReturn:
        need = next(need for need in self.requirements() if not need.satisfied)
        remedy = (need.remedy or "").replace("TIER", tier)
        raise Unsupported(f"bhyve needs {need.what}; {need.detail}", hint=remedy)


def _on_freebsd() -> list[Requirement]:
    lines = []
    for program in BhyveSubstrate.tools:
        path = shutil.which(program)
        lines.append(
            Requirement(
                program,
                path is not None,
                path or "not installed",
                "it is part of FreeBSD's base system",
            )
        )
    loaded = VMM.exists() or _says(["kldstat", "-q", "-m", "vmm"]) is not None
    lines.append(Requirement("vmm", loaded, "loaded" if loaded else "not loaded", "kldload vmm"))
    # bhyvectl knows the word only when it was built with snapshots.
    usage = _says(["bhyvectl", "--help"], any_code=True) or ""
    snapshots = "--suspend" in usage
    lines.append(
        Requirement(
            "BHYVE_SNAPSHOT, for the durable tiers",
            snapshots,
            "bhyvectl knows --suspend" if snapshots else "bhyvectl does not know --suspend",
            "build world with WITH_BHYVE_SNAPSHOT=yes and the kernel with options BHYVE_SNAPSHOT",
        )
    )
    return lines


def _says(command: Sequence[str], any_code: bool = False) -> str | None:
    """What a program prints; None when it is not there or, unless `any_code`, when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout + done.stderr if any_code or done.returncode == 0 else None
