"""The oci substrates: containers run by runc, in four shapes.

The root is copied for each container (`raw`, `net`) or is the lower layer of an overlay (`overlay`,
`net-overlay`); shapes with `net` have a NIC on cubenet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import Unsupported, UsageError
from harness.guest import rootfs, shared_agent
from harness.guest.rootfs import RootFs
from harness.host import cgroups
from harness.host.identity import Identity
from harness.host.requirement import Requirement
from harness.host.run import Run
from harness.network.cubenet import Cubenet, open_cubenet
from harness.network.policy import Policy
from harness.sandbox.base import MIB, SubstrateBase
from harness.sandbox.oci import container, roots
from harness.sandbox.oci.config import Limits
from harness.sandbox.oci.container import OciTemplate as OciTemplate
from harness.sandbox.oci.requirements import requirements
from harness.sandbox.oci.runc import PROGRAM, Runc
from harness.sandbox.protocol import Compared, Sharing, Tier
from harness.sandbox.shared_kernel import PerRun, SharedSandbox, launch_sandbox


@dataclass
class OciSubstrate(SubstrateBase):
    """Implements `harness.sandbox.protocol.Substrate`. `root` builds the root file system,
    `program` the first process; `policy` is what networked sandboxes may reach from their start."""

    overlay: bool = True
    network: bool = False
    limits: Limits = field(default_factory=Limits)
    root: Callable[[Path], RootFs] = rootfs.busybox
    policy: Policy = Policy()  # noqa: RUF009 - it is frozen
    program: Callable[[Path], Path] = shared_agent.build
    tiers: Sequence[Tier] = (Tier.FULL, Tier.PREWARM_POOL)
    tools: Sequence[str] = (PROGRAM,)

    def __post_init__(self) -> None:
        self._nets = PerRun[Cubenet]()
        parts = ("oci", "net" if self.network else "", "overlay" if self.overlay else "")
        self.name = "-".join(filter(None, parts)) if any(parts[1:]) else "oci-raw"
        pooled = self.overlay and not self.network
        self.compared = Compared(
            self.tiers if pooled else (Tier.FULL,), Tier.FULL if self.overlay else None
        )

    def requirements(self) -> Sequence[Requirement]:
        return requirements(overlay=self.overlay, network=self.network)

    def memory_per_sandbox(self, tier: Tier) -> int:
        """An upper estimate: measured are 0.5 MiB, plus the root where /run is in memory."""
        return 8 * MIB

    def prepare(self, run: Run, cache: Path, tier: Tier) -> OciTemplate:
        lacking = [need for need in self.requirements() if not need.satisfied]
        if lacking:
            raise Unsupported(f"{lacking[0].what}: {lacking[0].detail}", hint=lacking[0].remedy)
        root, agent = self.root(cache), self.program(cache)
        directory = run.directory / "oci"
        directory.mkdir(exist_ok=True)
        roots.check_reachable(directory)
        group = cgroups.group_of(run)
        own = cgroups.find()
        run.at_end.callback(own.remove, group)
        return OciTemplate(
            Runc.of(run), root, roots.shifted(root, agent, cache), agent, own, group, directory,
            self.net(run) if self.network else None,
        )  # fmt: skip

    def net(self, run: Run) -> Cubenet:
        """The network of a run's sandboxes, opened on first use."""
        return self._nets.of(run, lambda: open_cubenet(run))

    def launch(
        self,
        run: Run,
        template: OciTemplate,
        tier: Tier,
        identity: Identity,
        sharing: Sharing = Sharing.MAPPED,
        tap: int | None = None,
    ) -> OciSandbox:
        if tap is not None:
            raise UsageError("a container takes no tap: the shapes with `net` attach their own NIC")

        def attach(sandbox: OciSandbox) -> None:
            if template.net:
                template.net.attach_netns(identity, sandbox.pid, self.policy)

        return launch_sandbox(
            identity, tier, lambda _: self._start(run, template, identity), attach
        )

    def _start(self, run: Run, template: OciTemplate, identity: Identity) -> OciSandbox:
        made = container.begin(run, template, identity, self.limits, overlay=self.overlay)

        def end() -> None:
            container.take_down(run, template, identity.id, made.pid)
            made.log.close()

        freezer = template.freezer_of(identity.id, made.pid)
        sandbox = OciSandbox(identity, made.channel, end, freezer=freezer, output=made.log.tail)
        sandbox.pid = made.pid
        return sandbox


class OciSandbox(SharedSandbox):
    """A container; `pid` is its first process on this host."""

    pid: int


def oci_raw() -> OciSubstrate:
    return OciSubstrate(overlay=False)


def oci_net() -> OciSubstrate:
    return OciSubstrate(overlay=False, network=True)


def oci_overlay() -> OciSubstrate:
    return OciSubstrate()


def oci_net_overlay() -> OciSubstrate:
    return OciSubstrate(network=True)
