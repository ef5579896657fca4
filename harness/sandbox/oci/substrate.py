"""The oci substrates: containers by runc, of four shapes.

The root is copied for each (`raw`, `net`) or laid under each (`overlay`, `net-overlay`); those
with `net` have a card on cubenet.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import GuestDied, SandboxGone, Unsupported, UsageError
from harness.guest import rootfs, shared_agent
from harness.guest.rootfs import RootFs
from harness.host import cgroups
from harness.host.cgroups import Cgroups
from harness.host.requirement import Requirement
from harness.host.run import VARIABLE, Run
from harness.measure.record import Image
from harness.network.cubenet import Cubenet, open_cubenet
from harness.network.policy import Policy
from harness.sandbox.identity import Identity
from harness.sandbox.oci import config, roots
from harness.sandbox.oci.config import Limits
from harness.sandbox.oci.requirements import requirements
from harness.sandbox.oci.runc import PROGRAM, Runc, init_of
from harness.sandbox.protocol import Sharing, Tier
from harness.sandbox.shared import Log, PerRun, SharedSandbox, Signals, launched, start

MIB = 1 << 20


@dataclass(frozen=True)
class OciTemplate:
    """What containers are made of. `lower` is the root as sandboxes' users own it; `net` is where
    they are attached, if the shape has a network."""

    runc: Runc
    root: RootFs
    lower: Path
    agent: Path
    cgroups: Cgroups
    group: str
    folder: Path
    net: Cubenet | None
    accelerator: str | None = None

    @property
    def images(self) -> Sequence[Image]:
        return [self.root.as_record(), shared_agent.as_record(self.agent)]


@dataclass
class OciSubstrate:
    """Implements `harness.sandbox.protocol.Substrate`. `root` makes the root file system, `policy`
    is what networked sandboxes may reach from their start."""

    overlay: bool = True
    network: bool = False
    limits: Limits = field(default_factory=Limits)
    root: Callable[[Path], RootFs] = rootfs.busybox
    policy: Policy = Policy()  # noqa: RUF009 - it is frozen
    own_kernel: bool = False
    tiers: Sequence[Tier] = (Tier.FULL, Tier.PREWARM_POOL)
    sharings: Sequence[Sharing] = ()
    tools: Sequence[str] = (PROGRAM,)

    def __post_init__(self) -> None:
        self._nets = PerRun[Cubenet]()

    @property
    def name(self) -> str:
        parts = ("oci", "net" if self.network else "", "overlay" if self.overlay else "")
        return "-".join(filter(None, parts)) if any(parts[1:]) else "oci-raw"

    def requirements(self) -> Sequence[Requirement]:
        return requirements(overlay=self.overlay, network=self.network)

    def memory_per_sandbox(self, tier: Tier) -> int:
        """Bytes, estimated from above: measured 0.5 MiB, and the root where /run is in memory."""
        return 8 * MIB

    def prepare(self, run: Run, cache: Path, tier: Tier) -> OciTemplate:
        lacking = [one for one in self.requirements() if not one.satisfied]
        if lacking:
            raise Unsupported(f"{lacking[0].what}: {lacking[0].detail}", hint=lacking[0].remedy)
        root, agent = self.root(cache), shared_agent.build(cache)
        folder = run.folder / "oci"
        folder.mkdir(exist_ok=True)
        roots.check_reachable(folder)
        group = cgroups.group_of(run)
        own = cgroups.find()
        run.at_end.callback(own.remove, group)
        return OciTemplate(
            Runc.of(run), root, roots.shifted(root, agent, cache), agent, own, group, folder,
            self.net(run) if self.network else None,
        )  # fmt: skip

    def net(self, run: Run) -> Cubenet:
        """The network of a run's sandboxes, opened with the first that needs it."""
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
            raise UsageError("a container has no tap: the shapes with `net` attach it themselves")

        def attach(sandbox: OciSandbox) -> None:
            if template.net:
                template.net.attach_netns(identity, sandbox.pid, self.policy)

        return launched(
            identity, tier, lambda undo: _start(run, self, template, identity, undo), attach
        )

    def zygote(
        self, run: Run, template: OciTemplate, tap: int | None = None
    ) -> AbstractContextManager[OciTemplate]:
        raise Unsupported("a container cannot be forked with all its namespaces")


class OciSandbox(SharedSandbox):
    """A container; `pid` is its first process on this host."""

    pid: int


def _start(
    run: Run, substrate: OciSubstrate, template: OciTemplate, identity: Identity,
    undo: contextlib.ExitStack,
) -> OciSandbox:  # fmt: skip
    """A container whose agent was started; `undo` takes down what was put up so far."""
    config.check(identity)
    runc, id = template.runc, identity.id
    group = f"{template.group}/{id}"
    folder = template.folder / id
    folder.mkdir()
    undo.callback(shutil.rmtree, folder, ignore_errors=True)
    root = folder / "root"
    if substrate.overlay:
        undo.callback(roots.unmount, root)
        roots.lay_over(template.lower, folder, root, identity)
    else:
        roots.copy(template.lower, root)
        roots.name(root, identity)
    environment = {VARIABLE: run.environment[VARIABLE]}
    runc.write(folder, config.bundle(
        identity, root, substrate.limits, template.cgroups.unlimited, group,
        environment,
    ))  # fmt: skip
    log = Log(run, f"oci-{id}")
    undo.callback(log.close)
    pids: list[int] = []
    undo.callback(template.cgroups.remove, group)
    undo.callback(lambda: runc.delete(id, *pids[:1] or (None,)))
    pid_file = folder / "pid"
    # All sandboxes' keyrings would be one user's, who may have few; none may use any.
    words = runc.words(
        "run", "--detach", "--no-new-keyring", "--bundle", folder, "--pid-file", pid_file, id
    )
    child, line = start(words, runc.environment, log)
    undo.callback(line.close)
    if child.wait():
        raise GuestDied(f"runc did not start {id}: {log.said() or child.returncode}")
    pids.append(init_of(pid_file, log.said()))
    if template.net:
        undo.callback(_detach, template.net, id)
    end = undo.pop_all()
    hold = template.cgroups.freezer(group) or Signals(pids[0])
    sandbox = OciSandbox(identity, line, end.close, hold=hold, said=log.said)
    sandbox.pid = pids[0]
    return sandbox


def _detach(net: Cubenet, id: str) -> None:
    with contextlib.suppress(SandboxGone):  # it had not come so far
        net.detach(id)


def oci_raw() -> OciSubstrate:
    return OciSubstrate(overlay=False)


def oci_net() -> OciSubstrate:
    return OciSubstrate(overlay=False, network=True)


def oci_overlay() -> OciSubstrate:
    return OciSubstrate()


def oci_net_overlay() -> OciSubstrate:
    return OciSubstrate(network=True)
