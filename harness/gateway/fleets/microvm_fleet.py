"""Sandboxes that are microVMs under QEMU, with a pool for each template.

Under TCG the sandboxes of a pool are forks of one that has been rehearsed; elsewhere each is
restored from the template and rehearsed. `take` runs on the event loop; methods that block are
called from threads.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness.errors import CoppiceError, SandboxError, Unsupported
from harness.gateway import stages
from harness.gateway.envd.client import Envd
from harness.gateway.fleets import microvm, microvm_adoption, rehearsal, saved_vm, templates
from harness.gateway.fleets.adoption import check_location, location
from harness.gateway.fleets.event_drain import EventDrain
from harness.gateway.fleets.fd_holder import FdHolder
from harness.gateway.fleets.microvm import RESUME_LIMIT_S, MicroVm, MicroVmSpec
from harness.gateway.fleets.network import Network
from harness.gateway.fleets.pooled_fleet import PooledFleet, with_names
from harness.gateway.fleets.protocol import RunningSandbox
from harness.gateway.fleets.saved_vm import SavedVm
from harness.gateway.fleets.template_pool import TemplatePool
from harness.gateway.stages import reached
from harness.host.cpus import usable
from harness.host.identity import Identity, allocate
from harness.paths import cache_directory
from harness.sandbox.lifetime import destroyed_on_failure
from harness.sandbox.pool import WORKERS
from harness.sandbox.qemu.zygote import Zygote, preload

SETTLE_S = 0.2
"""Seconds that a guest gets after a rehearsal, unless a caller waits."""
ZYGOTE_REHEARSALS, TRIES = 2, 2
CHANNELS = 5
log = logging.getLogger("coppice.gateway")


class RunningMicroVm:
    """A microVM of a fleet. Implements `RunningSandbox`."""

    def __init__(self, fleet: MicroVmFleet, vm: MicroVm) -> None:
        self.id = vm.id
        self.vm = vm
        self._fleet = fleet
        fleet.events.watch(vm.guest.vmm.qmp)

    @property
    def location(self) -> Mapping[str, Any]:
        vm = self.vm
        return location(vm.identity, vm.pid, vm.start_ticks, self._fleet.port(vm.id), vm.came_from)

    @property
    def pid(self) -> int:
        return self.vm.pid

    def alive(self) -> bool:
        return self.vm.alive()

    async def connect(self) -> Envd:
        return await Envd.connect(self.vm.envd, self.id)

    def destroy(self) -> None:
        self.vm.destroy()


class TemplateMaker:
    """Makes the sandboxes of a template, once `open` has made what they are forked from."""

    def __init__(self, fleet: MicroVmFleet, source: SavedVm) -> None:
        self._fleet = fleet
        self._source = source
        self._zygote: tuple[Zygote, MicroVm] | None = None
        self._closing = False
        self._stack = ExitStack()

    def open(self) -> None:
        """Make the zygote. Where that is not possible, or fails, every sandbox is restored."""
        for _ in range(TRIES if self._fleet.accelerator == "tcg" else 0):
            if self._closing:
                return
            try:
                self._zygote = self._stack.enter_context(self._fleet.zygote(self._source))
                if self._closing:
                    self._stack.close()
                return
            except Unsupported:
                return
            except (CoppiceError, OSError, TimeoutError) as error:
                if self._closing:
                    return  # the end of the run has ended its VMM
                fields = {"why": f"{type(error).__name__}: {error}"}
                log.error("no sandbox to fork others from could be made", extra={"fields": fields})

    def close(self) -> None:
        self._closing = True
        self._stack.close()

    def make(self, wanted: Callable[[], bool]) -> MicroVm:
        """A sandbox that runs; `wanted` tells whether a caller waits for it."""
        if self._zygote:
            return self._fleet.forked(*self._zygote)
        return self._fleet.rehearsed(self._source, wanted)


class MicroVmFleet(PooledFleet[TemplatePool]):
    """Implements `harness.gateway.fleets.protocol.SandboxFleet`."""

    saves_memory = True
    saving_limits = (
        "pauses and snapshots of a microVM include its memory: leave out `memory: false`"
    )

    def __init__(self, spec: MicroVmSpec, fd_holder: FdHolder, network: Network | None) -> None:
        super().__init__(network, spec.overlays.place)
        self.spec = spec
        self.disk_mib = spec.base.size_mib
        self.memory_mib = spec.shape.memory_mib
        self.accelerator = spec.shape.accelerator
        self._fd_holder = fd_holder
        self._adopted: dict[str, tuple[Path, int]] = {}
        self._makers: dict[str, TemplateMaker] = {}
        self.events = EventDrain()

    def offer(self, template: str, cache: Path, size: int, stack: ExitStack) -> None:
        """Offer a template, with a pool of this size that `fill` fills."""
        source = templates.prepare(self.spec, cache, template)
        maker = self._makers[template] = TemplateMaker(self, source)
        stack.callback(maker.close)
        # A restore mostly waits for its guest; a fork keeps a processor busy.
        workers = usable() if self.accelerator == "tcg" else WORKERS
        self._pools[template] = pool = TemplatePool(maker.make, size, workers)
        stack.callback(pool.close)

    def fill(self) -> None:
        for template, maker in self._makers.items():
            maker.open()
            self._pools[template].fill()

    @contextlib.contextmanager
    def _allocated(self) -> Iterator[tuple[Identity, int | None, ExitStack]]:
        """An identity and a tap device for a new sandbox; released if the block fails."""
        identity = allocate(self.spec.run.leases, self.spec.run.id)
        with ExitStack() as undo:
            undo.callback(identity.release)
            tap = None
            if self._network:
                tap = self._network.attach(identity)
                undo.callback(self._network.detach, identity.id)
            yield identity, tap, undo
            undo.pop_all()

    def _restored(self, source: SavedVm, names: Mapping[str, Any] | None = None) -> MicroVm:
        """Restored, resumed, identity set."""
        written = (source.directory, self.spec.overlays.place.directory)
        with saved_vm.full_disk_named(*written), self._allocated() as (identity, tap, undo):
            vm = microvm.restore(self.spec, source, with_names(identity, names), tap)
            undo.callback(vm.destroy)
            self._settle(vm)
            self.set_resolver(vm)
        return vm

    def _settle(self, vm: MicroVm) -> None:
        vm.guest.awaken(RESUME_LIMIT_S)
        vm.guest.adopt_identity(self.route)
        # However it ends: in the pool too, or because its caller has disconnected.
        vm.on_end = lambda: self._release(vm.id)
        self._fd_holder.keep(vm.id, vm.channels)

    @contextlib.contextmanager
    def zygote(self, source: SavedVm) -> Iterator[tuple[Zygote, MicroVm]]:
        """A microVM that is restored, rehearsed and stopped, to be forked."""
        with (
            preload(cache_directory()) as (line, preloaded),
            self._allocated() as (identity, tap, undo),
        ):
            vm = microvm.restore(self.spec, source, identity, tap, preloaded)
            undo.callback(vm.destroy)
            preloaded.socket.close()
            vm.guest.awaken(RESUME_LIMIT_S)
            self.set_resolver(vm)
            rehearsal.rehearse_widely(vm)
            for _ in range(ZYGOTE_REHEARSALS):
                vm.guest.adopt_identity(self.route)
                templates.rehearse(vm, times=1)
                time.sleep(SETTLE_S)
                vm.stop()
                vm.resume()
            vm.stop()
            try:
                yield Zygote(vm.guest, line, tap), vm
            finally:
                vm.destroy()

    def forked(self, zygote: Zygote, source: MicroVm) -> MicroVm:
        """A fork of a zygote, which has rehearsed for it. It runs."""
        with self._allocated() as (identity, tap, undo):
            vm = microvm.fork(self.spec, zygote, source, identity, tap)
            undo.callback(vm.destroy)
            self._settle(vm)
        return vm

    def rehearsed(self, source: SavedVm, wanted: Callable[[], bool]) -> MicroVm:
        """Restored. It runs, and unless it is `wanted` at once it has done what callers do first:
        the VMM has translated that code, and the guest has touched its memory."""
        vm = self._restored(source)
        with destroyed_on_failure(vm):
            if not wanted():
                templates.rehearse(vm)
                vm.stop()
                vm.resume()
                templates.rehearse(vm, times=1)
            if not wanted():
                time.sleep(SETTLE_S)
        return vm

    async def take(self, template: str, key_id: str, timeout_s: float) -> RunningSandbox:
        return RunningMicroVm(self, await self._pools[template].take(key_id, timeout_s))

    def stop(self, sandbox: RunningSandbox) -> None:
        assert isinstance(sandbox, RunningMicroVm)
        sandbox.vm.stop(lambda: reached(stages.ARMED))

    def save(self, sandbox: RunningSandbox, directory: Path) -> None:
        assert isinstance(sandbox, RunningMicroVm)
        sandbox.vm.save(directory)

    def run_on(self, sandbox: RunningSandbox) -> None:
        assert isinstance(sandbox, RunningMicroVm)
        sandbox.vm.resume()

    def resume(self, directory: Path, names: Mapping[str, Any] | None) -> RunningSandbox:
        return RunningMicroVm(
            self,
            self._restored(
                saved_vm.load(directory, self.spec.facts, self.spec.shape.processor), names
            ),
        )

    def adopt(self, location: Mapping[str, Any]) -> RunningSandbox:
        identity, pid, port = check_location(location, self._network)
        channels = self._fd_holder.get(identity.id)
        if len(channels) != CHANNELS:
            raise SandboxError(f"the channels to the sandbox {identity.id} were not kept open")
        vm = microvm_adoption.adopt(self.spec, identity, pid, location["came_from"], channels)
        vm.on_end = lambda: self._release(vm.id)
        if self._network and port:
            self._network.adopt(identity, port)
        self._adopted[identity.id] = (identity.lease, pid)
        return RunningMicroVm(self, vm)

    def sweep(self) -> int:
        # Names that begin with a dot are not of sandboxes.
        for name in self._fd_holder.names():
            if name[0] != "." and name not in self._adopted:
                self._fd_holder.drop(name)
        return microvm_adoption.sweep(self.spec, self._adopted)

    def _release(self, id: str) -> None:
        """Release the channels and the network port of a microVM that has ended."""
        with contextlib.suppress(OSError):
            self._fd_holder.drop(id)
        if self._network:
            self._network.detach(id)
