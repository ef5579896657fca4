"""Sandboxes that are containers under runc: the other fleet, for hosts on which VMs are slow.

The first process of each is envd itself; root is a file system of the same Debian, laid under each.
A pool keeps them frozen, rehearsed like microVMs. The memory of a container cannot be saved: that
needs CRIU, which must know the kernel and every kind of its objects. What can be kept are files, so
pauses and snapshots are of mode `filesystem`, and forks, which are of memory, are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness.errors import CheckpointCorrupt, SandboxError
from harness.gateway.envd.client import Envd
from harness.gateway.fleets import adoption, disk, templates
from harness.gateway.fleets.adoption import born, free_leases, identity_of, told
from harness.gateway.fleets.fd_holder import Keeper
from harness.gateway.fleets.microvm import GUEST
from harness.gateway.fleets.microvm_fleet import Live
from harness.gateway.fleets.network import Network
from harness.gateway.fleets.pool_queue import Queue
from harness.guest.image import AGENT, COMPILE
from harness.host.cgroups import Usage
from harness.host.identity import Identity, allocate
from harness.host.locks import half_built
from harness.host.process import run as run_program
from harness.host.run import Run
from harness.measure.record import Image, digest
from harness.sandbox.lifetime import destroyed_on_failure
from harness.sandbox.oci import container, roots
from harness.sandbox.oci.config import Limits
from harness.sandbox.oci.container import PID_FILE, UPPER, OciTemplate
from harness.sandbox.oci.substrate import OciSubstrate
from harness.sandbox.pool import Pool
from harness.sandbox.protocol import Tier

MEMORY_MIB, PIDS = 512, 512
MEMORY_EACH = 32 << 20
LINE_BYTES = 1 << 20
SCHEMA, MANIFEST = "coppice.gateway-files/1", "manifest.json"


class BoxedEnvd(Envd):
    """Its kernel is this host's, which counts for all: its control group knows its own share."""

    used: Callable[[], Usage]
    born: float

    async def stats(self) -> str:
        """In the form of a kernel of its own."""
        text = await super().stats()
        disk = next(line for line in text.splitlines() if line.startswith("disk "))
        used = self.used()
        ticks = os.sysconf("SC_CLK_TCK")
        lived = time.clock_gettime(time.CLOCK_BOOTTIME) * ticks - self.born
        busy = int(used.processor_s * ticks)
        free = (MEMORY_MIB << 10) - (used.memory - used.cache >> 10)
        return (
            f"cpu {busy} 0 0 {max(int(lived) - busy, 0)}\n"
            f"MemTotal: {MEMORY_MIB << 10} kB\nMemAvailable: {free} kB\n"
            f"Cached: {used.cache >> 10} kB\n{disk}\n"
        )


class Boxed:
    """A container that runs envd. Implements `Live`."""

    def __init__(
        self, fleet: ContainerFleet, identity: Identity, pid: int, line: socket.socket, kind: str
    ) -> None:
        self.id = identity.id
        self.identity = identity
        self.pid = pid
        self.envd = line
        self.kind = kind
        self._born = born(pid)
        self._fleet = fleet
        self._freezer = fleet.template.freezer_of(self.id, pid)
        self._held = self._ended = False

    @property
    def about(self) -> Mapping[str, Any]:
        # Of the template too: what is resumed from its files begins as that does.
        return {
            "identity": {
                **told(self.identity),
                "kind": self.kind,
                "port": self._fleet.port(self.id),
            },
            "pid": self.pid,
            "born": self._born,
            "came_from": "",
        }

    def alive(self) -> bool:
        return born(self.pid) == self._born >= 0

    async def connect(self) -> Envd:
        made = await BoxedEnvd.connect(self.envd, self.id)
        assert isinstance(made, BoxedEnvd)
        made.born = self._born
        made.used = lambda: self._fleet.usage(self.id)
        return made

    def hold(self) -> None:
        """Freeze it."""
        self._freezer.freeze()
        self._held = True

    def wake(self) -> None:
        self._freezer.thaw()
        self._held = False

    def destroy(self) -> None:
        """End it and remove what it had; safe to call twice."""
        if self._ended:
            return
        self._ended = True
        if self._held:
            with contextlib.suppress(OSError):
                self.wake()  # what is frozen does not even die
        self._fleet.end(self.identity, self.pid)
        self.envd.close()


def program_of(cache: Path) -> Path:
    """envd as a container's first process; from the cache or compiled now."""
    sources = [*sorted(GUEST.glob("*.c")), AGENT / "frame.c"]
    whole = hashlib.sha256(" ".join(COMPILE).encode())
    for path in (*sources, *sorted(GUEST.glob("*.h")), AGENT / "frame.h"):
        whole.update(path.name.encode() + b"\0" + path.read_bytes())
    target = cache / "agents" / whole.hexdigest()
    if not target.exists():
        with half_built(target) as directory:
            run_program("musl-gcc", *COMPILE, f"-I{AGENT}", "-o", directory / "agent", *sources)
    return target / "agent"


class ContainerFleet:
    """Implements `harness.gateway.fleets.microvm_fleet.Fleet`."""

    memory_mib = MEMORY_MIB
    disk_mib = disk.SIZE_MIB
    accelerator = None
    keeps_memory = False
    cannot = (
        "the memory of a container cannot be saved, which forks need too: that takes CRIU, and one "
        "that knows this kernel; its files can be: ask for mode 'filesystem' (memory: false)"
    )

    def __init__(self, run: Run, cache: Path, keeper: Keeper, network: Network | None) -> None:
        self._run = run
        self._keeper = keeper
        self._network = network
        self._limits = Limits(memory=MEMORY_MIB << 20, pids=PIDS)
        substrate = OciSubstrate(limits=self._limits, root=disk.settled, program=program_of)
        self.template: OciTemplate = substrate.prepare(run, cache, Tier.PREWARM_POOL)
        self._disk = disk.empty(cache)
        self._pools: dict[str, Pool[Boxed]] = {}
        self._queues: dict[str, Queue[Boxed]] = {}
        self._adopted: dict[str, Path] = {}

    @property
    def images(self) -> Sequence[Image]:
        made = Image(
            "envd", digest(self.template.agent), {"sources": self.template.agent.parent.name}
        )
        return [self.template.root.as_record(), made]

    def offer(self, name: str, size: int, stack: ExitStack) -> None:
        self._pools[name] = pool = Pool(lambda: self._ready(name), size, memory_each=MEMORY_EACH)
        self._queues[name] = queue = Queue(pool)
        stack.callback(queue.close)
        stack.callback(pool.drain)

    def fill(self) -> None:
        """Wait until the pools are full."""
        for pool in self._pools.values():
            pool.fill()

    def templates(self) -> Sequence[str]:
        return list(self._pools)

    def ready(self) -> Mapping[str, int]:
        return {name: pool.ready for name, pool in self._pools.items()}

    def _make(
        self, kind: str, upper: Path | None = None, names: Mapping[str, Any] | None = None
    ) -> Boxed:
        """One that runs, and in which what its template promises has begun."""
        identity = allocate(self._run.leases, self._run.id)
        with ExitStack() as undo:
            undo.callback(identity.release)
            kept = {name: names[name] for name in ("hostname", "machine_id")} if names else {}
            identity = dataclasses.replace(identity, **kept)
            made = container.begin(
                self._run, self.template, identity, self._limits, overlay=True, upper=upper,
                disk=self._disk,
            )  # fmt: skip
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                made.channel.setsockopt(socket.SOL_SOCKET, option, LINE_BYTES)
            made.log.close()
            boxed = Boxed(self, identity, made.pid, made.channel, kind)
            undo.pop_all()
        with destroyed_on_failure(boxed):
            if self._network:
                self._network.attach_process(identity, made.pid)
            templates.begin(boxed, kind)
            self._keeper.keep(boxed.id, (boxed.envd,))
        return boxed

    def _ready(self, kind: str) -> Boxed:
        made = self._make(kind)
        with destroyed_on_failure(made):
            templates.rehearse(made)
            made.hold()
        return made

    def port(self, id: str) -> str | None:
        """The name of a sandbox's port."""
        return self._network.port(id) if self._network else None

    async def take(self, template: str, timeout_s: float) -> Live:
        made = await self._queues[template].take(timeout_s)
        with destroyed_on_failure(made):
            await asyncio.get_running_loop().run_in_executor(None, made.wake)
        return made

    def save(self, live: Live, directory: Path, ends: bool) -> None:
        made = _boxed(live)
        made.hold()
        try:
            with half_built(directory) as target:
                roots.copy(container.written(self.template, made.id), target / UPPER)
                facts = {
                    "schema": SCHEMA,
                    "kind": made.kind,
                    "lower": self.template.lower.parent.name,
                }
                (target / MANIFEST).write_text(json.dumps(facts))
                run_program("sync", "--file-system", target)
        finally:
            made.wake()
        if ends:
            made.destroy()

    def resume(self, directory: Path, same: Mapping[str, Any] | None) -> Live:
        try:
            facts = json.loads((directory / MANIFEST).read_text())
            kind, lower = facts["kind"], facts["lower"]
            if facts["schema"] != SCHEMA:
                raise ValueError(f"schema {facts['schema']}")
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointCorrupt(f"{directory} holds no files of a sandbox: {error}") from error
        if lower != self.template.lower.parent.name:
            raise CheckpointCorrupt(
                f"{directory} lies on a root file system that is not this one's"
            )
        return self._make(kind, directory / UPPER, same)

    def adopt(self, about: Mapping[str, Any]) -> Live:
        identity, pid = identity_of(about["identity"]), int(about["pid"])
        if born(pid) != about["born"]:
            raise SandboxError(f"the sandbox {identity.id} has ended")
        port = adoption.port_of(about, self._network)
        ends = self._keeper.get(identity.id)
        if len(ends) != 1:
            raise SandboxError(f"nobody has kept the line of the sandbox {identity.id}")
        made = Boxed(self, identity, pid, ends[0], about["identity"]["kind"])
        made.wake()  # it was about to be saved, perhaps
        if self._network and port:
            self._network.adopt(identity, port)
        self._adopted[identity.id] = identity.lease
        return made

    def sweep(self) -> int:
        for name in self._keeper.names():
            if name not in self._adopted and not name.startswith("."):
                self._keeper.drop(name)
        lost = [
            one.name for one in self.template.directory.iterdir() if one.name not in self._adopted
        ]
        for id in lost:
            pid = None
            with contextlib.suppress(OSError, ValueError):
                pid = int((self.template.directory / id / PID_FILE).read_text())
            container.take_down(self._run, self.template, id, pid)
        free_leases(self._run, self._adopted.values())
        return len(lost)

    def end(self, identity: Identity, pid: int) -> None:
        """Take one down."""
        if self._network:
            self._network.detach(identity.id)
        container.take_down(self._run, self.template, identity.id, pid)
        with contextlib.suppress(OSError):
            self._keeper.drop(identity.id)
        identity.release()

    def usage(self, id: str) -> Usage:
        """What one has used."""
        return self.template.cgroups.usage(f"{self.template.group}/{id}")

    def police(self, live: Live, rules: Mapping[str, Any]) -> None:
        if self._network:
            self._network.police(live.id, rules)


def _boxed(live: Live) -> Boxed:
    assert isinstance(live, Boxed)
    return live
