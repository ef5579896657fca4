"""The lifecycle of sandboxes, from creation to removal: states, time limits, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import CoppiceError
from harness.gateway.envd.client import Envd
from harness.gateway.errors import ApiError, not_found
from harness.gateway.fleets.adoption import LOCATION_FIELDS
from harness.gateway.fleets.network import policy
from harness.gateway.fleets.protocol import RunningSandbox, SandboxFleet
from harness.gateway.metrics import Metrics
from harness.gateway.sandboxes.admission import Admission
from harness.gateway.sandboxes.sandbox import Sandbox, now, restored_deadline, store_location
from harness.gateway.sandboxes.saved_directories import SavedDirectories, remove_all
from harness.gateway.sandboxes.store import Key, Snapshot, Store, StoredSandbox
from harness.gateway.sandboxes.tokens import Tokens

TICK_S = 0.1
READY_LIMIT_S = 60.0
WORKERS = 8
KEPT_RULES = ("allowPublicTraffic",)
"""Network rules that stay when the others are replaced."""
log = logging.getLogger("coppice.gateway")
T = TypeVar("T")


class Sandboxes:
    """All sandboxes of a gateway. Runs on the event loop; blocking work is done in threads."""

    def __init__(
        self, fleet: SandboxFleet, store: Store, directory: Path, metrics: Metrics
    ) -> None:
        self.fleet = fleet
        self.store = store
        self.metrics = metrics
        self.by_id: dict[str, Sandbox] = {}
        self.saved = SavedDirectories(directory / "saved")
        self.tokens = Tokens(store.secret())
        self.admission = Admission(fleet.memory_mib)
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="sandboxes")
        self._savers = ThreadPoolExecutor(2, thread_name_prefix="savers")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reaper: asyncio.Task[None] | None = None

    # Start and stop of the gateway.

    async def open(self) -> None:
        """Adopt the sandboxes that run, drop those that are gone, end orphaned ones."""
        for stored in list(self.store.sandboxes()):
            await self._restore(stored)
        orphans = await self.in_thread(self.fleet.sweep)
        if orphans:
            _warn("ended orphaned sandboxes", count=orphans)
        for sandbox in list(self.by_id.values()):
            if sandbox.stored.held:
                await self._resume_held(sandbox)
        remove_all(self._unneeded())
        self._reaper = asyncio.create_task(self._reap())

    async def _restore(self, stored: StoredSandbox) -> None:
        sandbox = Sandbox(stored, deadline=restored_deadline(stored))
        self.by_id[stored.id] = sandbox
        if stored.state == "running" and stored.pid:
            try:
                location = {name: getattr(stored, name) for name in LOCATION_FIELDS}
                sandbox.running = await self.in_thread(lambda: self.fleet.adopt(location))
                sandbox.envd = await sandbox.running.connect()
                self.fleet.set_network_rules(sandbox.running, stored.network)
                sandbox.log("adopted after a restart of the gateway")
                self.metrics.count("adopted")
                return
            except (CoppiceError, OSError) as error:
                _warn("sandbox is gone", sandbox=stored.id, why=str(error))
                self.metrics.count("gone")
        if stored.saved and Path(stored.saved).is_dir():
            stored.state, stored.pid = "paused", 0
            self.store.put(stored)
            return
        del self.by_id[stored.id]
        self.store.remove(stored.id)

    async def _resume_held(self, sandbox: Sandbox) -> None:
        """Resume a sandbox that was paused only because its gateway was stopped."""
        sandbox.stored.held = False
        try:
            async with sandbox.lock:
                await self._resume(sandbox, sandbox.stored.timeout_s)
        except (CoppiceError, OSError) as error:  # it stays paused
            _error("sandbox was not resumed", sandbox=sandbox.id, why=str(error))
            self.store.put(sandbox.stored)

    async def close(self) -> None:
        """Pause what runs; the next gateway resumes it."""
        if self._reaper:
            self._reaper.cancel()
        for task in list(self._tasks):
            task.cancel()
        running = [sandbox for sandbox in self.by_id.values() if sandbox.running]

        async def hold(sandbox: Sandbox) -> None:
            with contextlib.suppress(CoppiceError, ApiError, OSError):
                async with sandbox.lock:
                    sandbox.stored.held = True
                    await self._pause(sandbox)
            self._destroy(sandbox)

        await asyncio.gather(*(hold(sandbox) for sandbox in running))
        self._workers.shutdown(cancel_futures=True)
        self._savers.shutdown()

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            at = now()
            for sandbox in list(self.by_id.values()):
                if sandbox.lock.locked() or not sandbox.running:
                    continue
                if sandbox.stored.state == "running" and at >= sandbox.deadline:
                    self.spawn(self._time_is_up(sandbox))
                elif sandbox.envd and sandbox.envd.gone:
                    self.spawn(self._remove_if_dead(sandbox))

    def spawn(self, work: Any) -> None:
        """Run a coroutine in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _time_is_up(self, sandbox: Sandbox) -> None:
        async with sandbox.lock:
            if now() < sandbox.deadline or not sandbox.running:
                return
            self.metrics.count("timeouts")
            try:
                if sandbox.stored.auto_pause:
                    await self._pause(sandbox)
                    return
            except CoppiceError as error:
                _error("sandbox was not paused", sandbox=sandbox.id, why=str(error))
            await self._remove(sandbox)

    async def _remove_if_dead(self, sandbox: Sandbox) -> None:
        async with sandbox.lock:
            if sandbox.running and not sandbox.running.alive():
                self.metrics.count("died")
                _warn("sandbox died", sandbox=sandbox.id)
                await self._remove(sandbox)

    async def in_thread(self, work: Callable[[], T], saver: bool = False) -> T:
        """Run blocking work; `saver` for saving and restoring, which take long."""
        pool = self._savers if saver else self._workers
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    # Creation and removal.

    def running_of(self, key: Key) -> int:
        """The sandboxes of a key that are not paused."""
        own = (one.stored for one in self.by_id.values() if one.stored.key_id == key.id)
        return sum(stored.state != "paused" for stored in own)

    def has_ready(self, template: str) -> bool:
        """Whether a sandbox of this template is ready in the pool."""
        fleet = self.fleet
        return template in fleet.templates() and fleet.ready().get(template, 1) > 0

    def require_saving(self, memory: bool) -> None:
        """ApiError 400 unless this fleet saves sandboxes with (or without) their memory."""
        if memory != self.fleet.saves_memory:
            raise ApiError(400, self.fleet.saving_limits)

    async def create(
        self,
        key: Key,
        body: Mapping[str, Any],
        default_s: float,
        snapshot: Snapshot | None = None,
    ) -> Sandbox:
        """A running sandbox as the body of E2B's request describes it, from its template or from
        the snapshot that the template names."""
        given = body.get("timeout")
        timeout_s = float(default_s if given is None else given)
        rules = dict(body.get("network") or {})
        if body.get("allow_internet_access") is not None:
            rules["allow_internet_access"] = body["allow_internet_access"]
        if rules:
            policy(rules)  # invalid rules are refused before anything is created
        if body.get("autoPause"):
            self.require_saving(body.get("autoPauseMemory") is not False)
        with self.admission.creating(key, self.running_of(key)):
            running = await self._start(body["templateID"], snapshot)
            resume = body.get("autoResume") or {}
            stored = StoredSandbox(
                new_id(), key.id, body["templateID"], "running", time.time(),
                time.time() + timeout_s,
                metadata=dict(body.get("metadata") or {}),
                environment=dict(body.get("envVars") or {}),
                network=rules,
                auto_pause=bool(body.get("autoPause")),
                auto_resume=bool(resume.get("enabled") if isinstance(resume, Mapping) else resume),
                secure=body.get("secure") is not False,
                timeout_s=timeout_s,
            )  # fmt: skip
            return await self.add(stored, running)

    async def _start(self, template: str, snapshot: Snapshot | None) -> RunningSandbox:
        if snapshot is not None or not self.has_ready(template):
            self.fleet.require_room(1)  # at once, not when a pool has tried in vain
        if snapshot is None:
            return await self.fleet.take(template, READY_LIMIT_S)
        directory = Path(snapshot.directory)
        return await self.in_thread(lambda: self.fleet.resume(directory, None), saver=True)

    async def add(self, stored: StoredSandbox, running: RunningSandbox) -> Sandbox:
        """Store a new sandbox, apply its rules and connect to it."""
        sandbox = Sandbox(stored, running)
        sandbox.set_deadline(now() + stored.timeout_s)
        store_location(stored, running)
        self.by_id[stored.id] = sandbox
        self.store.put(stored)
        try:
            if stored.network:
                self.fleet.set_network_rules(running, stored.network)
            sandbox.envd = await running.connect()
        except BaseException:
            await self._remove(sandbox)
            raise
        sandbox.log("sandbox created", template=stored.template)
        self.metrics.count("created")
        return sandbox

    def get(self, key: Key, id: str) -> Sandbox:
        """A key's sandbox; ApiError 404 for unknown ones and for those of other keys alike."""
        sandbox = self.by_id.get(id)
        if sandbox is None or sandbox.stored.key_id != key.id:
            raise not_found(id)
        return sandbox

    async def kill(self, sandbox: Sandbox) -> None:
        async with sandbox.lock:
            self.require_known(sandbox)
            await self._remove(sandbox)

    async def _remove(self, sandbox: Sandbox) -> None:
        self.by_id.pop(sandbox.id, None)
        self.store.remove(sandbox.id)
        await self.in_thread(lambda: self._destroy(sandbox))
        self.spawn(self.remove_unneeded())
        self.metrics.count("ended")

    def _destroy(self, sandbox: Sandbox) -> None:
        running, sandbox.running = sandbox.running, None
        if running:
            running.destroy()

    # Pause and resume.

    async def pause(self, sandbox: Sandbox) -> None:
        async with sandbox.lock:
            self.require_known(sandbox)
            if sandbox.stored.state == "paused":
                raise ApiError(409, f"sandbox {sandbox.id!r} is already paused")
            await self._pause(sandbox)

    async def _pause(self, sandbox: Sandbox) -> None:
        running = sandbox.running
        assert running
        with self.saved.new(sandbox.id) as directory:
            await self.in_thread(lambda: self.fleet.save(running, directory, True), saver=True)
            sandbox.stored.saved, sandbox.stored.state = str(directory), "paused"
            sandbox.stored.pid = 0
            self.store.put(sandbox.stored)
            sandbox.processes_known = False
            if sandbox.envd:
                sandbox.envd.close()
            sandbox.envd = sandbox.running = None
        self.spawn(self.remove_unneeded())
        sandbox.log("sandbox paused")
        self.metrics.count("paused")

    async def connect(self, sandbox: Sandbox, timeout_s: float) -> bool:
        """Resume it if it is paused, extend its time to at least this; whether it was paused."""
        async with sandbox.lock:
            self.require_known(sandbox)
            if sandbox.stored.state == "paused":
                await self._resume(sandbox, timeout_s)
                return True
            self._set_timeout(sandbox, max(timeout_s, sandbox.deadline - now()))
            return False

    async def resume(self, sandbox: Sandbox, timeout_s: float) -> None:
        async with sandbox.lock:
            self.require_known(sandbox)
            if sandbox.stored.state == "running":
                raise ApiError(409, f"sandbox {sandbox.id!r} is already running")
            await self._resume(sandbox, timeout_s)

    async def _resume(self, sandbox: Sandbox, timeout_s: float) -> None:
        stored = sandbox.stored
        directory, names = Path(stored.saved), dict(stored.identity)
        running = await self.in_thread(lambda: self.fleet.resume(directory, names), saver=True)
        sandbox.running = running
        store_location(stored, running)
        stored.state, stored.saved = "running", ""
        self._set_timeout(sandbox, timeout_s)
        if stored.network:
            self.fleet.set_network_rules(running, stored.network)
        sandbox.envd = await running.connect()
        sandbox.log("sandbox resumed")
        self.metrics.count("resumed")

    def require_known(self, sandbox: Sandbox) -> None:
        """ApiError 404 if it was removed while the caller waited for its lock."""
        if sandbox.id not in self.by_id:
            raise not_found(sandbox.id)

    async def set_timeout(self, sandbox: Sandbox, timeout_s: float) -> None:
        async with sandbox.lock:
            self.require_known(sandbox)
            if sandbox.stored.state != "running":
                raise not_found(sandbox.id)
            self._set_timeout(sandbox, timeout_s)

    async def refresh(self, sandbox: Sandbox, duration_s: float) -> None:
        """Extend its time to at least this from now."""
        async with sandbox.lock:
            self.require_known(sandbox)
            self._set_timeout(sandbox, max(duration_s, sandbox.deadline - now()))

    def _set_timeout(self, sandbox: Sandbox, timeout_s: float) -> None:
        sandbox.set_deadline(now() + timeout_s)
        sandbox.stored.timeout_s = timeout_s
        self.store.put(sandbox.stored)

    async def connected(self, id: str) -> tuple[Sandbox, Envd]:
        """A sandbox and its envd, for traffic to it; one with auto-resume is resumed."""
        sandbox = self.by_id.get(id)
        if sandbox and sandbox.stored.state == "paused" and sandbox.stored.auto_resume:
            await self.connect(sandbox, sandbox.stored.timeout_s or 300)
        if sandbox is None or sandbox.envd is None or sandbox.envd.gone:
            raise ApiError(502, "sandbox was not found")
        return sandbox, sandbox.envd

    async def set_network_rules(self, sandbox: Sandbox, rules: Mapping[str, Any]) -> None:
        policy(rules)
        async with sandbox.lock:
            self.require_known(sandbox)
            if not sandbox.running:
                raise ApiError(409, f"sandbox {sandbox.id!r} is paused")
            self.fleet.set_network_rules(sandbox.running, rules)
            former = sandbox.stored.network.items()
            kept = {name: rule for name, rule in former if name in KEPT_RULES}
            sandbox.stored.network = {**kept, **rules}
            self.store.put(sandbox.stored)

    async def remove_unneeded(self) -> None:
        """Remove saved directories that nothing refers to."""
        unneeded = self._unneeded()
        if unneeded:
            await self.in_thread(lambda: remove_all(unneeded), saver=True)

    def _unneeded(self) -> Sequence[Path]:
        stored = [sandbox.stored for sandbox in self.by_id.values()]
        return self.saved.unneeded(stored, self.store.snapshots())


def new_id() -> str:
    """The id of a new sandbox."""
    return "i" + secrets.token_hex(10)


def _warn(message: str, **fields: Any) -> None:
    log.warning(message, extra={"fields": fields})


def _error(message: str, **fields: Any) -> None:
    log.error(message, extra={"fields": fields})
