"""Sandboxes that are containers under runc, for hosts on which VMs are slow.

The first process of each container is envd. They share a read-only root file system of the same
Debian, each with an overlay. A pool keeps them frozen, rehearsed like the microVMs. The memory of a
container cannot be saved: that takes CRIU, which must support the kernel and every kind of kernel
object in use. Files can be, so pauses and snapshots have the mode `filesystem`; forks copy memory
and are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness import strict_json
from harness.errors import CheckpointCorrupt, CheckpointForeign, GuestDied, SandboxError
from harness.gateway import stages
from harness.gateway.envd.client import Envd
from harness.gateway.fleets import container_envd, disk, templates
from harness.gateway.fleets.adoption import check_location, free_leases, location, start_ticks
from harness.gateway.fleets.container_envd import MEMORY_MIB, ContainerEnvd
from harness.gateway.fleets.fd_holder import FdHolder
from harness.gateway.fleets.network import Network
from harness.gateway.fleets.pool_queue import PoolQueue
from harness.gateway.fleets.pooled_fleet import PooledFleet, destroyed_in_thread, with_names
from harness.gateway.fleets.protocol import RunningSandbox
from harness.gateway.stages import reached
from harness.host.cgroups import Usage
from harness.host.disk_place import DiskPlace
from harness.host.identity import Identity, allocate
from harness.host.locks import half_built
from harness.host.process import run as run_program
from harness.host.run import Run
from harness.sandbox.lifetime import destroyed_on_failure
from harness.sandbox.oci import container, roots
from harness.sandbox.oci.config import Limits
from harness.sandbox.oci.container import PID_FILE, UPPER, Disk, OciTemplate
from harness.sandbox.oci.substrate import OciSubstrate
from harness.sandbox.pool import Pool
from harness.sandbox.protocol import Tier

PIDS = 512
POOL_MEMORY = 64 << 20
"""Bytes of host memory that a sandbox in the pool takes, an upper estimate."""
CHANNEL_BYTES = 1 << 20
SCHEMA, MANIFEST = "coppice.gateway-files/1", "manifest.json"


class RunningContainer:
    """A container that runs envd. Implements `RunningSandbox`."""

    def __init__(
        self,
        fleet: ContainerFleet,
        identity: Identity,
        pid: int,
        channel: socket.socket,
        template: str,
    ) -> None:
        self.id = identity.id
        self.identity = identity
        self.pid = pid
        self.envd = channel
        self.template = template
        self._start_ticks = start_ticks(pid)
        self._fleet = fleet
        self._freezer = fleet.template.freezer_of(self.id, pid)
        self._frozen = self._destroyed = False

    @property
    def location(self) -> Mapping[str, Any]:
        # With the template: a sandbox resumed from its files starts the same processes.
        return location(
            self.identity, self.pid, self._start_ticks, self._fleet.port(self.id),
            kind=self.template,
        )  # fmt: skip

    def alive(self) -> bool:
        return start_ticks(self.pid) == self._start_ticks >= 0

    async def connect(self) -> Envd:
        envd = await ContainerEnvd.connect(self.envd, self.id)
        envd.start_ticks = self._start_ticks
        envd.usage = lambda: self._fleet.usage(self.id)
        return envd

    def freeze(self) -> None:
        self._frozen = True
        self._freezer.freeze()

    def thaw(self) -> None:
        self._freezer.thaw()
        self._frozen = False

    def destroy(self) -> None:
        """End it and remove what it had; safe to call twice."""
        if self._destroyed:
            return
        if self._frozen:
            with contextlib.suppress(OSError):
                self.thaw()  # a frozen process does not die of SIGKILL
        self._fleet.end(self.identity, self.pid)
        self.envd.close()
        self._destroyed = True


class ContainerFleet(PooledFleet[Pool[RunningContainer]]):
    """Implements `harness.gateway.fleets.protocol.SandboxFleet`."""

    memory_mib = MEMORY_MIB
    saves_memory = False
    saving_limits = (
        "a container's memory cannot be saved or forked: that takes CRIU with support for this "
        "kernel; save its files instead, with mode 'filesystem' (memory: false)"
    )

    def __init__(
        self,
        run: Run,
        cache: Path,
        fd_holder: FdHolder,
        network: Network | None,
        place: DiskPlace,
        disk_mib: int,
    ) -> None:
        super().__init__(network, place)
        self.disk_mib = disk_mib
        self._run = run
        self._fd_holder = fd_holder
        self._limits = Limits(memory=MEMORY_MIB << 20, pids=PIDS)
        substrate = OciSubstrate(
            limits=self._limits, root=disk.root_directory, program=container_envd.build
        )
        self.template: OciTemplate = substrate.prepare(run, cache, Tier.PREWARM_POOL)
        self._disk = Disk(disk.empty_image(cache, disk_mib), place)
        self._queues: dict[str, PoolQueue[RunningContainer]] = {}
        self._adopted: dict[str, Path] = {}

    def offer(self, template: str, size: int, stack: ExitStack) -> None:
        """Offer a template, with a pool of this size that `fill` fills."""
        pool = Pool(lambda: self._prepared(template), size, memory_each=POOL_MEMORY, lends=False)
        queue = PoolQueue(pool)
        self._pools[template], self._queues[template] = pool, queue
        stack.callback(queue.close)
        stack.callback(pool.drain)

    def _start(
        self, template: str, upper: Path | None = None, names: Mapping[str, Any] | None = None
    ) -> RunningContainer:
        """A container that runs the processes of its template."""
        identity = allocate(self._run.leases, self._run.id)
        with ExitStack() as undo:
            undo.callback(identity.release)
            identity = with_names(identity, names)
            process = container.begin(
                self._run, self.template, identity, self._limits, overlay=True, upper=upper,
                disk=self._disk,
            )  # fmt: skip
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                process.channel.setsockopt(socket.SOL_SOCKET, option, CHANNEL_BYTES)
            process.log.close()
            running = RunningContainer(self, identity, process.pid, process.channel, template)
            undo.pop_all()
        with destroyed_on_failure(running):
            if self._network:
                self._network.attach_process(identity, process.pid)
            self.set_resolver(running)
            templates.start_processes(running, template)
            self._fd_holder.keep(running.id, (running.envd,))
        return running

    def _prepared(self, template: str) -> RunningContainer:
        """A container for the pool: rehearsed and frozen."""
        running = self._start(template)
        with destroyed_on_failure(running):
            templates.rehearse(running)
            running.freeze()
        return running

    async def take(self, template: str, key_id: str, timeout_s: float) -> RunningSandbox:
        running = await self._queues[template].take(key_id, timeout_s)
        async with destroyed_in_thread(running):
            await asyncio.get_running_loop().run_in_executor(None, running.thaw)
        return running

    def stop(self, sandbox: RunningSandbox) -> None:
        assert isinstance(sandbox, RunningContainer)
        try:
            sandbox.freeze()
        except (SandboxError, OSError) as error:
            if not sandbox.alive():
                raise GuestDied(f"the sandbox {sandbox.id} has ended") from error
            sandbox.thaw()
            raise

    def save(self, sandbox: RunningSandbox, directory: Path) -> None:
        assert isinstance(sandbox, RunningContainer)
        with half_built(directory) as target:
            roots.copy(container.written(self.template, sandbox.id), target / UPPER)
            facts = {
                "schema": SCHEMA,
                "kind": sandbox.template,
                "lower": self.template.lower.parent.name,
                "network": self._network is not None,
            }
            (target / MANIFEST).write_text(json.dumps(facts), encoding="utf-8")
            run_program("sync", "--file-system", target)
            reached(stages.WRITTEN)

    def run_on(self, sandbox: RunningSandbox) -> None:
        assert isinstance(sandbox, RunningContainer)
        sandbox.thaw()

    def resume(self, directory: Path, names: Mapping[str, Any] | None) -> RunningSandbox:
        try:
            facts = strict_json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
            template, lower = facts["kind"], facts["lower"]
            if facts["schema"] != SCHEMA:
                raise ValueError(f"schema {facts['schema']}")
            connected = facts.get("network", self._network is not None)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointCorrupt(
                f"{directory} does not hold a sandbox's files: {error}"
            ) from error
        if lower != self.template.lower.parent.name:
            raise CheckpointCorrupt(
                f"the files in {directory} belong to another version of the root file system"
            )
        if connected != (self._network is not None):
            has, has_not = ("the sandbox", "this gateway") if connected else ("this gateway", "it")
            raise CheckpointForeign(
                f"{directory}: {has} has a network and {has_not} has none",
                hint="start the gateway with the network that it had before",
            )
        return self._start(template, directory / UPPER, names)

    def adopt(self, location: Mapping[str, Any]) -> RunningSandbox:
        identity, pid, port = check_location(location, self._network)
        channels = self._fd_holder.get(identity.id)
        if len(channels) != 1:
            raise SandboxError(f"the channel to the sandbox {identity.id} was not kept open")
        running = RunningContainer(self, identity, pid, channels[0], location["identity"]["kind"])
        running.thaw()  # the former gateway may have been about to save it
        if self._network and port:
            self._network.adopt(identity, port)
        self._adopted[identity.id] = identity.lease
        return running

    def sweep(self) -> int:
        for name in self._fd_holder.names():
            if name not in self._adopted and not name.startswith("."):
                self._fd_holder.drop(name)
        orphans = [
            directory.name
            for directory in self.template.directory.iterdir()
            if directory.name not in self._adopted
        ]
        for id in orphans:
            pid = None
            with contextlib.suppress(OSError, ValueError):
                pid = int((self.template.directory / id / PID_FILE).read_text(encoding="utf-8"))
            container.take_down(self._run, self.template, id, pid)
        free_leases(self._run, self._adopted.values())
        return len(orphans)

    def end(self, identity: Identity, pid: int) -> None:
        """Remove a container, its channel, network port and address."""
        if self._network:
            self._network.detach(identity.id)
        container.take_down(self._run, self.template, identity.id, pid)
        with contextlib.suppress(OSError):
            self._fd_holder.drop(identity.id)
        identity.release()

    def usage(self, id: str) -> Usage:
        """What a container has used."""
        return self.template.cgroups.usage(f"{self.template.group}/{id}")
