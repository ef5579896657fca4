"""The jail substrates: sandboxes on FreeBSD's own kernel, in four shapes.

A jail is made in the order root, devices, NIC, jail, limits, agent, and removed in reverse: a mount
in the root keeps its data set busy, and a jail's NIC returns to the host only when the jail ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CommandFailed, NameTaken, SandboxGone, Unsupported, UsageError
from harness.guest.freebsd import FreebsdImage, build
from harness.host import freebsd
from harness.host.identity import NETWORK6, Identity
from harness.host.local import LocalHost
from harness.host.protocol import Done, Host, HostProcess, failure, must
from harness.host.requirement import Requirement
from harness.host.run import Run
from harness.measure.record import Image
from harness.network.pf_cubenet import NIC_NAME, PfCubenet, open_pf_cubenet
from harness.network.policy import Policy
from harness.sandbox.base import MIB, SubstrateBase
from harness.sandbox.jail.roots import ClonedRoots, CopiedRoots, Roots, cloned
from harness.sandbox.protocol import Sharing, Tier
from harness.sandbox.shared_kernel import PerRun, SharedSandbox, launch_sandbox

POOL = "COPPICE_POOL"
"""The variable that names the ZFS pool to use instead of the first."""
DEVICES = "4"
"""FreeBSD's devfs ruleset for jails: null, zero, random and terminals only."""
LIMITS = ("memoryuse:deny=256M", "maxproc:deny=128")
AGENT = "/sbin/init"


@dataclass(frozen=True)
class JailTemplate:
    """What jails are made from. `limits` is empty where the kernel has no resource accounting."""

    host: Host
    image: FreebsdImage
    roots: Roots
    net: PfCubenet | None
    limits: Sequence[str]
    accelerator: str | None = None

    @property
    def images(self) -> Sequence[Image]:
        root = "ZFS clone" if isinstance(self.roots, ClonedRoots) else "copy"
        facts = {**self.image.built_from, "root": root, "limits": ", ".join(self.limits) or "none"}
        return [Image("jail", self.image.sha256, facts)]


@dataclass(frozen=True)
class _JailFreezer:
    """Stops and continues the agent, which has no children while it is frozen."""

    host: Host
    process: HostProcess

    def freeze(self) -> None:
        self.host.signal(self.process, signal.SIGSTOP)

    def thaw(self) -> None:
        self.host.signal(self.process, signal.SIGCONT)


class JailSubstrate(SubstrateBase):
    """Implements `harness.sandbox.protocol.Substrate`."""

    tiers = (Tier.FULL, Tier.PREWARM_POOL)
    compared = None

    def __init__(
        self,
        *,
        network: bool = False,
        zfs: bool = False,
        policy: Policy | None = None,
        host: Callable[[Run | None], Host] = LocalHost,
    ) -> None:
        self.network = network
        self.zfs = zfs
        self.policy = policy or Policy()
        self._host = host
        self._nets = PerRun[PfCubenet]()
        tools = ["jail", *(["pfctl"] if network else []), *(["zfs"] if zfs else [])]
        self.tools = tools
        # As published: raw, vnet-pf, zfs-clone, vnet-zfs-clone, each after jail-.
        if zfs:
            self.name = f"jail-{'vnet-' if network else ''}zfs-clone"
        else:
            self.name = f"jail-{'vnet-pf' if network else 'raw'}"

    def requirements(self) -> Sequence[Requirement]:
        host = self._host(None)
        if not freebsd.is_freebsd(host):
            return [
                Requirement(
                    "a FreeBSD host",
                    False,
                    "this one is not",
                    f"COPPICE_HOST=ssh://user@host runs {self.name} there; "
                    "mise run bench:oci-overlay measures containers on this host",
                )
            ]
        lines = [freebsd.root(host), *freebsd.programs(host, "jail", "jexec", "jls")]
        lines.append(_device_rules(host))
        if self.network:
            lines += [freebsd.vimage(host), *freebsd.bridging(host)]
            lines += [need for need in freebsd.pf(host) if "limit" not in need.what]
        if self.zfs:
            lines += freebsd.zfs(host, os.environ.get(POOL))
        return lines

    def memory_per_sandbox(self, tier: Tier) -> int:
        """An upper estimate; the published figure for a jail is about 2 MB."""
        return 8 * MIB

    def prepare(self, run: Run, cache: Path, tier: Tier) -> JailTemplate:
        for need in self.requirements():
            if not need.satisfied:
                raise Unsupported(f"{self.name} needs {need.what}; {need.detail}", hint=need.remedy)
        host = self._host(run)
        image = build(host, str(cache), kernel=False)
        roots: Roots = CopiedRoots(host, image.root)
        if self.zfs:
            pool = os.environ.get(POOL) or freebsd.pools(host)[0]
            roots = cloned(host, pool, image)
        limits = LIMITS if freebsd.limits(host).satisfied else ()
        return JailTemplate(host, image, roots, self.net(host, run), limits)

    def net(self, host: Host, run: Run) -> PfCubenet | None:
        """The network of a run's jails, opened on first use."""
        return self._nets.of(run, lambda: open_pf_cubenet(host, run)) if self.network else None

    def launch(
        self,
        run: Run,
        template: JailTemplate,
        tier: Tier,
        identity: Identity,
        sharing: Sharing = Sharing.MAPPED,
        tap: int | None = None,
    ) -> SharedSandbox:
        if tap is not None:
            raise UsageError("a jail takes no tap: the shapes with vnet attach their own NIC")
        return launch_sandbox(
            identity, tier, lambda undo: self._start(run, template, identity, undo)
        )

    def _start(
        self, run: Run, template: JailTemplate, identity: Identity, undo: contextlib.ExitStack
    ) -> SharedSandbox:
        """A jail whose agent has been started; `undo` reverts an incomplete start."""
        host, name = template.host, run.object_name(identity.id)
        root, remove = template.roots.make(name)
        undo.callback(remove)
        host.put(f"{identity.machine_id}\n".encode(), f"{root}/etc/machine-id", 0o444)
        devices = f"{root}/dev"
        must(host, ["mount", "-t", "devfs", "-o", f"ruleset={DEVICES}", "devfs", devices])
        undo.callback(host.run, ["umount", "-f", devices])
        nic = ""
        if template.net:
            nic = template.net.attach_epair(identity, self.policy).jail
            undo.callback(_detach, template.net, identity.id)
        done = host.run(creation(name, root, identity, nic))
        if done.code:
            raise _explained(host, name, done)
        undo.callback(host.run, ["jail", "-r", name])
        if nic:
            _configure(host, name, nic, identity)
        if template.limits:
            undo.callback(host.run, ["rctl", "-r", f"jail:{name}"])
            for limit in template.limits:  # rctl takes one rule per call
                must(host, ["rctl", "-a", f"jail:{name}:{limit}"])
        process = host.start(["jexec", name, AGENT], name)
        undo.callback(process.end)
        end = undo.pop_all()
        return SharedSandbox(
            identity,
            process.channel,
            end.close,
            freezer=_JailFreezer(host, process),
            output=process.error_text,
        )


def creation(name: str, root: str, identity: Identity, nic: str) -> Sequence[str]:
    """The argv that creates a jail without processes."""
    argv = ["jail", "-c", f"name={name}", f"path={root}", f"host.hostname={identity.hostname}"]
    argv += ["persist", "enforce_statfs=2", "children.max=0", f"devfs_ruleset={DEVICES}"]
    if nic:
        return [*argv, "vnet", f"vnet.interface={nic}"]
    # It shares the host's network stack, but may use none of its addresses.
    return [*argv, "ip4=disable", "ip6=disable"]


def _configure(host: Host, name: str, nic: str, identity: Identity) -> None:
    """Name the jail's NIC and give it addresses, by the jail's own ifconfig."""
    inside = ["jexec", name, "/bin/ifconfig"]
    must(host, [*inside, nic, "name", NIC_NAME])
    must(host, [*inside, NIC_NAME, "ether", identity.mac])
    must(host, [*inside, NIC_NAME, "inet", f"{identity.address}/{identity.prefix}", "up"])
    must(host, [*inside, NIC_NAME, "inet6", f"{identity.address6}/{NETWORK6.prefixlen}", "no_dad"])
    must(host, [*inside, "lo0", "inet", "127.0.0.1/8", "up"])


def _explained(host: Host, name: str, done: Done) -> Exception:
    error = failure(host, done)
    if isinstance(error, CommandFailed) and "already exists" in error.error_text:
        return NameTaken(
            f"a jail {name} exists already and was left alone",
            hint=f"coppice clean removes it if a dead run left it, or: jail -r {name}",
        )
    return error


def _detach(net: PfCubenet, id: str) -> None:
    with contextlib.suppress(SandboxGone):  # the network has been closed
        net.detach(id)


def _device_rules(host: Host) -> Requirement:
    there = bool(freebsd.ask(host, "devfs", "rule", "-s", DEVICES, "show"))
    return Requirement(
        f"devfs rules for jails (set {DEVICES})",
        there,
        "loaded" if there else "not loaded: a jail would see all devices",
        "service devfs onestart",
    )


def jail_raw() -> JailSubstrate:
    return JailSubstrate()


def jail_vnet_pf() -> JailSubstrate:
    return JailSubstrate(network=True)


def jail_zfs_clone() -> JailSubstrate:
    return JailSubstrate(zfs=True)


def jail_vnet_zfs_clone() -> JailSubstrate:
    return JailSubstrate(network=True, zfs=True)
