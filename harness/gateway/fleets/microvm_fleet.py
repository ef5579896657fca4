"""Where sandboxes come from: the interface that the API needs of a substrate, and microVMs.

A `Fleet` has templates, and for each a pool of sandboxes restored from it, rehearsed and held.
`take` is of the event loop; what blocks is called from threads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from harness.errors import CoppiceError, SandboxError, Unsupported
from harness.gateway.envd.client import Envd
from harness.gateway.fleets import adoption, disk, microvm, saved_vm, templates
from harness.gateway.fleets.adoption import born, identity_of, told
from harness.gateway.fleets.fd_holder import Keeper
from harness.gateway.fleets.microvm import Kit, Machine
from harness.gateway.fleets.network import Network
from harness.gateway.fleets.pool_queue import Queue
from harness.gateway.fleets.saved_vm import State
from harness.host.identity import Identity, allocate
from harness.measure.record import Image
from harness.paths import cache_directory
from harness.sandbox.lifetime import destroyed_on_failure
from harness.sandbox.pool import Pool
from harness.sandbox.qemu.zygote import Zygote, preload

MEMORY_EACH = 96 << 20
"""Bytes that one more sandbox takes from the host, estimated from above."""
REST_S = 0.2
TRIES = 3
CALM_S = 0.3
"""Seconds without a creation after which a pool is filled up, unless somebody waits for it."""
log = logging.getLogger("coppice.gateway")
ZYGOTE_REHEARSALS = 4


class Live(Protocol):
    """A sandbox that runs. `about` is what `adopt` needs to find it again."""

    id: str

    @property
    def about(self) -> Mapping[str, Any]: ...

    @property
    def pid(self) -> int: ...

    def alive(self) -> bool: ...

    async def connect(self) -> Envd: ...

    def destroy(self) -> None: ...


class Fleet(Protocol):
    """Makes sandboxes of templates and of saved states. Everything but `take` may block."""

    memory_mib: int
    disk_mib: int
    keeps_memory: bool
    """Whether what it saves are sandboxes as they run, or else their files alone."""
    cannot: str
    """Why not the other."""

    @property
    def images(self) -> Sequence[Image]: ...

    @property
    def accelerator(self) -> str | None: ...

    def templates(self) -> Sequence[str]: ...

    async def take(self, template: str, timeout_s: float) -> Live:
        """One of a template, awake; GuestTimeout when none is ready in time."""

    def save(self, live: Live, directory: Path, ends: bool) -> None:
        """Save one to a directory that is not there yet; it ends then, or runs on."""

    def resume(self, directory: Path, same: Mapping[str, Any] | None) -> Live:
        """One from a directory; `same` keeps the names of the one that was saved."""

    def adopt(self, about: Mapping[str, Any]) -> Live:
        """One that a killed gateway left running; SandboxError when it is gone."""

    def sweep(self) -> int:
        """End what runs and is nobody's, after the last `adopt`; how many there were."""

    def police(self, live: Live, rules: Mapping[str, Any]) -> None:
        """Make a sandbox obey E2B's network rules from now on."""

    def ready(self) -> Mapping[str, int]:
        """How many wait, by template."""


class MachineLive:
    """Implements `Live`."""

    def __init__(self, fleet: MachineFleet, own: Machine) -> None:
        self.id = own.id
        self.machine = own
        self._fleet = fleet

    @property
    def about(self) -> Mapping[str, Any]:
        return {
            "identity": {**told(self.machine.identity), "port": self._fleet.port(self.id)},
            "pid": self.machine.pid,
            "born": self.machine.born,
            "came_from": self.machine.came_from,
        }

    @property
    def pid(self) -> int:
        return self.machine.pid

    def alive(self) -> bool:
        return self.machine.alive()

    async def connect(self) -> Envd:
        return await Envd.connect(self.machine.envd, self.id)

    def destroy(self) -> None:
        self._fleet.end(self.machine)


class Offered:
    """A template that is offered, with its pool. Where the VMM can be forked, one sandbox is
    restored and rehearsed for all of them, and the pool's are its copies."""

    def __init__(self, fleet: MachineFleet, source: State, size: int) -> None:
        self.state = source
        self.zygote: tuple[Zygote, Machine] | None = None
        self.taken = 0.0
        self._fleet = fleet
        self._stack = ExitStack()
        self.pool = Pool(self._make, size, memory_each=MEMORY_EACH)
        self.queue = Queue(self.pool)

    def fill(self) -> None:
        """Begin, and wait until the pool is full."""
        if self._fleet.accelerator == "tcg":
            with contextlib.suppress(Unsupported):
                self.zygote = self._stack.enter_context(self._fleet.zygote(self.state))
        self.pool.fill()

    def _make(self) -> Machine:
        """One more for the pool, which does not ask again for one that failed."""
        # Who is being served now goes first: making another takes a processor for itself.
        while not self.pool.awaited and time.monotonic() - self.taken < CALM_S:
            time.sleep(CALM_S / 10)
        for _ in range(TRIES - 1):
            try:
                return self._fleet.rehearsed(self.state, self.zygote)
            except (CoppiceError, OSError, TimeoutError) as error:
                log.error("not made", extra={"fields": {"why": f"{type(error).__name__}: {error}"}})
        return self._fleet.rehearsed(self.state, self.zygote)

    def close(self) -> None:
        self.pool.drain()
        self.queue.close()
        self._stack.close()


class MachineFleet:
    """MicroVMs under QEMU. Implements `Fleet`; made by `opened`."""

    disk_mib = disk.SIZE_MIB
    keeps_memory = True
    cannot = "a pause or snapshot of a microVM keeps its memory: leave out `memory: false`"

    def __init__(self, kit: Kit, keeper: Keeper, network: Network | None, note: str) -> None:
        self.kit = kit
        self.memory_mib = kit.shape.memory_mib
        self.accelerator = kit.shape.accelerator
        self.note = note
        self._keeper = keeper
        self._network = network
        self._lock = threading.Lock()  # of the keeper's one line
        self._offered: dict[str, Offered] = {}
        self._adopted: dict[str, tuple[Path, int]] = {}

    @property
    def images(self) -> Sequence[Image]:
        of_templates = [one.state.as_record() for one in self._offered.values()]
        return [self.kit.image.as_record(), self.kit.base.as_record(), *of_templates]

    def offer(self, template: str, cache: Path, size: int, stack: ExitStack) -> None:
        """Prepare a template and begin to fill its pool."""
        source = templates.prepare(self.kit, cache, template)
        self._offered[template] = offered = Offered(self, source, size)
        stack.callback(offered.close)

    def fill(self) -> None:
        """Wait until the pools are full."""
        for one in self._offered.values():
            one.fill()

    def templates(self) -> Sequence[str]:
        return list(self._offered)

    def ready(self) -> Mapping[str, int]:
        return {name: one.pool.ready for name, one in self._offered.items()}

    @contextlib.contextmanager
    def _place(self) -> Iterator[tuple[Identity, int | None, ExitStack]]:
        """Addresses and a plug for a sandbox to be; given back when the block fails."""
        identity = allocate(self.kit.run.leases, self.kit.run.id)
        with ExitStack() as undo:
            undo.callback(identity.release)
            tap = None
            if self._network:
                tap = self._network.attach(identity)
                undo.callback(self._network.detach, identity.id)
            yield identity, tap, undo
            undo.pop_all()

    def port(self, id: str) -> str | None:
        """The name of a sandbox's port."""
        return self._network.port(id) if self._network else None

    def _launch(self, source: State, names: Mapping[str, Any] | None = None) -> Machine:
        """Restored, awake and somebody."""
        with self._place() as (identity, tap, undo):
            kept = {name: names[name] for name in ("hostname", "machine_id")} if names else {}
            made = microvm.restore(self.kit, source, dataclasses.replace(identity, **kept), tap)
            undo.callback(made.destroy)
            self._settle(made)
        return made

    def _settle(self, made: Machine) -> None:
        made.guest.awaken(microvm.WAKE_LIMIT_S)
        made.guest.adopt_identity()
        with self._lock:
            self._keeper.keep(made.id, made.lines)

    @contextlib.contextmanager
    def zygote(self, source: State) -> Iterator[tuple[Zygote, Machine]]:
        """One restored, rehearsed and held, to be forked."""
        with (
            preload(cache_directory()) as (line, preloaded),
            self._place() as (identity, tap, undo),
        ):
            made = microvm.restore(self.kit, source, identity, tap, preloaded)
            undo.callback(made.destroy)
            preloaded.socket.close()
            made.guest.awaken(microvm.WAKE_LIMIT_S)
            for _ in range(ZYGOTE_REHEARSALS):
                made.guest.adopt_identity()
                templates.rehearse(made)
                time.sleep(REST_S)
                made.hold()
                made.wake()
            made.hold()
            try:
                yield Zygote(made.guest, line, tap), made
            finally:
                made.destroy()

    def rehearsed(self, source: State, zygote: tuple[Zygote, Machine] | None) -> Machine:
        """Held again after it has once done what callers do first: its code is translated then."""
        if zygote:
            with self._place() as (identity, tap, undo):
                made = microvm.fork(self.kit, *zygote, identity, tap)
                undo.callback(made.destroy)
                self._settle(made)
        else:
            made = self._launch(source)
        with destroyed_on_failure(made):
            if not zygote:
                templates.rehearse(made)
                made.hold()
                made.wake()
            templates.rehearse(made, times=1)
            time.sleep(REST_S)
            made.hold()
        return made

    async def take(self, template: str, timeout_s: float) -> Live:
        offered = self._offered[template]
        offered.taken = time.monotonic()
        made = await offered.queue.take(timeout_s)
        with destroyed_on_failure(made):
            await made.rise()
        return MachineLive(self, made)

    def save(self, live: Live, directory: Path, ends: bool) -> None:
        made = _machine(live)
        made.hold()
        try:
            made.save(directory)
        except BaseException:
            made.wake()
            raise
        if ends:
            self.end(made)
        else:
            made.wake()

    def resume(self, directory: Path, same: Mapping[str, Any] | None) -> Live:
        return MachineLive(self, self._launch(saved_vm.load(directory, self.kit.facts), same))

    def adopt(self, about: Mapping[str, Any]) -> Live:
        identity, pid = identity_of(about["identity"]), int(about["pid"])
        if born(pid) != about["born"]:
            raise SandboxError(f"the sandbox {identity.id} has ended")
        port = adoption.port_of(about, self._network)
        with self._lock:
            ends = self._keeper.get(identity.id)
        if len(ends) != 5:
            raise SandboxError(f"nobody has kept the lines of the sandbox {identity.id}")
        made = microvm.adopt(self.kit, identity, pid, about["came_from"], ends)
        if self._network and port:
            self._network.adopt(identity, port)
        self._adopted[identity.id] = (identity.lease, pid)
        return MachineLive(self, made)

    def sweep(self) -> int:
        with self._lock:
            # What begins with a dot is no sandbox's.
            lost = [
                one for one in self._keeper.names() if one[0] != "." and one not in self._adopted
            ]
            for name in lost:
                self._keeper.drop(name)
        return microvm.sweep(self.kit.run, self._adopted)

    def end(self, made: Machine) -> None:
        made.destroy()
        with self._lock, contextlib.suppress(OSError):
            self._keeper.drop(made.id)
        if self._network:
            self._network.detach(made.id)

    def police(self, live: Live, rules: Mapping[str, Any]) -> None:
        if self._network:
            self._network.police(live.id, rules)


def _machine(live: Live) -> Machine:
    assert isinstance(live, MachineLive)
    return live.machine
