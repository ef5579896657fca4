"""The jail substrates: sandboxes on FreeBSD's own kernel, in four shapes.

A jail is made in the order root, devices, card, jail, limits, agent, and unmade the other way
round: what is mounted in a root keeps its data set busy, and a card that a jail has comes back only
when the jail is gone.
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
from harness.host.local import Local
from harness.host.protocol import Done, Host, Started, failure, must
from harness.host.requirement import Requirement
from harness.host.run import Run
from harness.measure.record import Image
from harness.network.pf_cubenet import CARD, PfCubenet, open_pf_cubenet
from harness.network.policy import Policy
from harness.sandbox.base import SubstrateBase
from harness.sandbox.jail.roots import Clones, Copies, Roots, cloned
from harness.sandbox.protocol import Sharing, Tier
from harness.sandbox.shared_kernel import PerRun, SharedSandbox, launched

POOL = "COPPICE_POOL"
"""Names the ZFS pool to use, where it is not the first."""
DEVICES = "4"
"""FreeBSD's own devfs rules for jails: null, zero, random, terminals, and no more."""
LIMITS = ("memoryuse:deny=256M", "maxproc:deny=128")
AGENT = "/sbin/init"
MIB = 1 << 20


@dataclass(frozen=True)
class JailTemplate:
    """What jails are made of. `limits` are empty where the kernel accounts for nobody."""

    host: Host
    image: FreebsdImage
    roots: Roots
    net: PfCubenet | None
    limits: Sequence[str]
    accelerator: str | None = None

    @property
    def images(self) -> Sequence[Image]:
        root = "ZFS clone" if isinstance(self.roots, Clones) else "copy"
        facts = {**self.image.built_from, "root": root, "limits": ", ".join(self.limits) or "none"}
        return [Image("jail", self.image.sha256, facts)]


@dataclass(frozen=True)
class _Hold:
    """Stops and continues the agent, which has started nothing while it is held."""

    host: Host
    process: Started

    def hold(self) -> None:
        self.host.signal(self.process, signal.SIGSTOP)

    def release(self) -> None:
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
        host: Callable[[Run | None], Host] = Local,
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
        """Bytes, from above; what was published for a jail is about 2 MB."""
        return 8 * MIB

    def prepare(self, run: Run, cache: Path, tier: Tier) -> JailTemplate:
        for need in self.requirements():
            if not need.satisfied:
                raise Unsupported(f"{self.name} needs {need.what}; {need.detail}", hint=need.remedy)
        host = self._host(run)
        image = build(host, str(cache), kernel=False)
        roots: Roots = Copies(host, image.root)
        if self.zfs:
            pool = os.environ.get(POOL) or freebsd.pools(host)[0]
            roots = cloned(host, pool, image)
        limits = LIMITS if freebsd.limits(host).satisfied else ()
        return JailTemplate(host, image, roots, self.net(host, run), limits)

    def net(self, host: Host, run: Run) -> PfCubenet | None:
        """The network of a run's jails, opened with the first that needs it."""
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
            raise UsageError("a jail has no tap: the shapes with vnet attach it themselves")
        return launched(identity, tier, lambda undo: self._start(run, template, identity, undo))

    def _start(
        self, run: Run, template: JailTemplate, identity: Identity, undo: contextlib.ExitStack
    ) -> SharedSandbox:
        """A jail whose agent was started; `undo` takes down what was put up so far."""
        host, name = template.host, run.object_name(identity.id)
        root, remove = template.roots.make(name)
        undo.callback(remove)
        host.put(f"{identity.machine_id}\n".encode(), f"{root}/etc/machine-id", 0o444)
        devices = f"{root}/dev"
        must(host, ["mount", "-t", "devfs", "-o", f"ruleset={DEVICES}", "devfs", devices])
        undo.callback(host.run, ["umount", "-f", devices])
        card = ""
        if template.net:
            card = template.net.attach_epair(identity, self.policy).jail
            undo.callback(_detach, template.net, identity.id)
        done = host.run(creation(name, root, identity, card))
        if done.code:
            raise _explained(host, name, done)
        undo.callback(host.run, ["jail", "-r", name])
        if card:
            _configure(host, name, card, identity)
        if template.limits:
            undo.callback(host.run, ["rctl", "-r", f"jail:{name}"])
            for one in template.limits:  # rctl takes one rule a call
                must(host, ["rctl", "-a", f"jail:{name}:{one}"])
        process = host.start(["jexec", name, AGENT], name)
        undo.callback(process.end)
        end = undo.pop_all()
        return SharedSandbox(
            identity, process.line, end.close, hold=_Hold(host, process), said=process.said
        )


def creation(name: str, root: str, identity: Identity, card: str) -> Sequence[str]:
    """The command line that makes a jail without a process in it."""
    words = ["jail", "-c", f"name={name}", f"path={root}", f"host.hostname={identity.hostname}"]
    words += ["persist", "enforce_statfs=2", "children.max=0", f"devfs_ruleset={DEVICES}"]
    if card:
        return [*words, "vnet", f"vnet.interface={card}"]
    # It shares the host's network stack, and is given no address of it.
    return [*words, "ip4=disable", "ip6=disable"]


def _configure(host: Host, name: str, card: str, identity: Identity) -> None:
    """Give the card that the jail has its name and addresses; with the jail's own program."""
    inside = ["jexec", name, "/bin/ifconfig"]
    must(host, [*inside, card, "name", CARD])
    must(host, [*inside, CARD, "ether", identity.mac])
    must(host, [*inside, CARD, "inet", f"{identity.address}/{identity.prefix}", "up"])
    must(host, [*inside, CARD, "inet6", f"{identity.address6}/{NETWORK6.prefixlen}", "no_dad"])
    must(host, [*inside, "lo0", "inet", "127.0.0.1/8", "up"])


def _explained(host: Host, name: str, done: Done) -> Exception:
    error = failure(host, done)
    if isinstance(error, CommandFailed) and "already exists" in error.said:
        return NameTaken(
            f"a jail {name} is there already; it was left as it is",
            hint=f"coppice clean removes it if a dead run left it, or: jail -r {name}",
        )
    return error


def _detach(net: PfCubenet, id: str) -> None:
    with contextlib.suppress(SandboxGone):  # the network was closed before
        net.detach(id)


def _device_rules(host: Host) -> Requirement:
    there = bool(freebsd.ask(host, "devfs", "rule", "-s", DEVICES, "show"))
    return Requirement(
        f"devfs rules for jails (set {DEVICES})",
        there,
        "loaded" if there else "not loaded: a jail would see every device",
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
