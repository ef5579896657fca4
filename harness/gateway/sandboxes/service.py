"""The lifecycle of sandboxes, from creation to removal: states, time limits, the end.

A change of state is stored first and carried out then, so that a gateway that is killed at any
moment loses no sandbox: its successor believes the store (restart.py). What a caller is told has
been stored. Changes go on to their end when their caller disconnects.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import CoppiceError, Overloaded, SandboxError
from harness.gateway.envd.client import Envd
from harness.gateway.envd.limits import check_environment
from harness.gateway.errors import ApiError, not_found
from harness.gateway.fleets.network import policy
from harness.gateway.fleets.protocol import RunningSandbox, SandboxFleet
from harness.gateway.metrics import Metrics
from harness.gateway.sandboxes import restart
from harness.gateway.sandboxes.admission import Admission
from harness.gateway.sandboxes.lifecycle import Lifecycle, log_error
from harness.gateway.sandboxes.sandbox import Sandbox, now, until
from harness.gateway.sandboxes.store import Key, Snapshot, Store, StoredSandbox
from harness.gateway.sandboxes.tokens import Tokens

TICK_S = 0.1
REAPED_AT_ONCE = 500
"""Sandboxes whose time is looked at before callers have their turn."""
READY_LIMIT_S = 60.0
PAUSE_AGAIN_S = 30.0
"""Until a sandbox whose time is up is saved again, after this host could not save it."""
DESTROY_TRIES = 3
KEPT_RULES = ("allowPublicTraffic",)
"""Network rules that stay when the others are replaced."""
log = logging.getLogger("coppice.gateway")


class Sandboxes(Lifecycle):
    """All sandboxes of a gateway. Runs on the event loop; blocking work is done in threads."""

    def __init__(
        self, fleet: SandboxFleet, store: Store, directory: Path, metrics: Metrics
    ) -> None:
        super().__init__(fleet, store, directory, metrics)
        self.tokens = Tokens(store.secret())
        self.admission = Admission(fleet.memory_mib)
        self._reaper: asyncio.Task[None] | None = None
        self.opened = False
        """Whether all that the gateway before had left was adopted, or is known to be gone."""

    # Start and stop of the gateway.

    async def open(self) -> None:
        """Adopt the sandboxes that run, drop those that are gone, end orphaned ones."""
        await restart.restore(self)
        self.opened = True
        self._reaper = asyncio.create_task(self._reap())

    async def close(self) -> None:
        """Pause what runs; the next gateway resumes it. What cannot be saved runs on, and the next
        gateway adopts it."""
        if self._reaper:
            self._reaper.cancel()
        await self.workers.settle()

        async def hold(sandbox: Sandbox) -> None:
            async with sandbox.lock:
                if not sandbox.running:
                    return
                try:
                    await self.save_and_end(sandbox, held=True)
                except (CoppiceError, ApiError, OSError) as error:
                    if sandbox.running:
                        log_error("sandbox was not saved: it is left running", sandbox, error)

        await asyncio.gather(*(hold(sandbox) for sandbox in list(self.by_id.values())))
        await self.workers.settle()
        self.workers.close()

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for number, sandbox in enumerate(list(self.by_id.values())):
                if number % REAPED_AT_ONCE == 0:
                    await asyncio.sleep(0)  # callers have their turn
                    at = now()
                if sandbox.lock.locked() or not sandbox.running:
                    continue
                if sandbox.envd and sandbox.envd.gone and not sandbox.running.alive():
                    self.workers.spawn(self._remove_if_dead(sandbox))
                elif at >= max(sandbox.deadline, sandbox.pause_again):
                    self.workers.spawn(self._time_is_up(sandbox))

    async def _time_is_up(self, sandbox: Sandbox) -> None:
        async with sandbox.lock:
            if now() < sandbox.deadline or not sandbox.running:
                return
            self.metrics.count("timeouts")
            try:
                if sandbox.stored.auto_pause:
                    await self.save_and_end(sandbox)
                    return
            except ApiError:
                return  # it hung and was ended
            except SandboxError as error:
                log_error("sandbox was not paused, so it ends", sandbox, error)
            except (CoppiceError, OSError) as error:
                # This host's fault, a full disk perhaps: its data must not be lost for that.
                log_error("sandbox was not paused; this is tried again", sandbox, error)
                sandbox.pause_again = now() + PAUSE_AGAIN_S
                return
            await self.remove(sandbox)

    async def _remove_if_dead(self, sandbox: Sandbox) -> None:
        async with sandbox.lock:
            if sandbox.running and not sandbox.running.alive():
                self.metrics.count("died")
                log_error("sandbox died", sandbox)
                await self.remove(sandbox)

    # Creation and removal.

    @property
    def running(self) -> int:
        """How many sandboxes run."""
        return sum(sandbox.running is not None for sandbox in self.by_id.values())

    @contextlib.contextmanager
    def admitted(self, key: Key, count: int = 1) -> Iterator[None]:
        """The creation of `count` sandboxes. Raises what `Admission.creating` raises."""
        try:
            with self.admission.creating(key, self.running_of(key), count):
                yield
        except Overloaded:
            self.metrics.count("refused")
            raise

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
        created_by: str = "",
    ) -> Sandbox:
        """A running sandbox as the body of E2B's request describes it, from its template or from
        the snapshot that the template names."""
        given = body.get("timeout")
        timeout_s = float(default_s if given is None else given)
        environment = dict(body.get("envVars") or {})
        check_environment(environment)
        rules = dict(body.get("network") or {})
        if body.get("allow_internet_access") is not None:
            rules["allow_internet_access"] = body["allow_internet_access"]
        if rules:
            policy(rules)  # invalid rules are refused before anything is created
        if body.get("autoPause"):
            self.require_saving(body.get("autoPauseMemory") is not False)
        using = self.saved.using(Path(snapshot.directory)) if snapshot else contextlib.nullcontext()
        with self.admitted(key), using:
            running = await self._start(key, body["templateID"], snapshot)
            resume = body.get("autoResume") or {}
            stored = StoredSandbox(
                new_id(), key.id, body["templateID"], "running", time.time(),
                time.time() + timeout_s,
                metadata=dict(body.get("metadata") or {}),
                environment=environment,
                network=rules,
                auto_pause=bool(body.get("autoPause")),
                auto_resume=bool(resume.get("enabled") if isinstance(resume, Mapping) else resume),
                secure=body.get("secure") is not False,
                timeout_s=timeout_s, created_by=created_by,
            )  # fmt: skip
            return await self.add(stored, running)

    async def _start(self, key: Key, template: str, snapshot: Snapshot | None) -> RunningSandbox:
        if snapshot is not None or not self.has_ready(template):
            self.fleet.require_room(1)  # at once, not when a pool has tried in vain
        if snapshot is None:
            return await self.fleet.take(template, key.id, READY_LIMIT_S)
        directory = Path(snapshot.directory)
        return await self.workers.made(key.id, lambda: self.fleet.resume(directory, None))

    def get(self, key: Key, id: str) -> Sandbox:
        """A key's sandbox; ApiError 404 for unknown ones and for those of other keys alike."""
        sandbox = self.by_id.get(id)
        if sandbox is None or sandbox.stored.key_id != key.id:
            raise not_found(id)
        return sandbox

    async def kill(self, sandbox: Sandbox) -> None:
        async def kill() -> None:
            async with sandbox.lock:
                self.require_known(sandbox)
                await self.remove(sandbox)

        await self.workers.to_its_end(kill())

    # Pause and resume.

    async def pause(self, sandbox: Sandbox) -> None:
        async def pause() -> None:
            async with sandbox.lock:
                self.require_known(sandbox)
                if sandbox.stored.state == "paused":
                    raise ApiError(409, f"sandbox {sandbox.id!r} is already paused")
                await self.save_and_end(sandbox)

        await self.workers.to_its_end(pause())

    async def connect(self, sandbox: Sandbox, timeout_s: float) -> bool:
        """Resume it if it is paused, extend its time to at least this; whether it was paused."""

        async def connect() -> bool:
            async with sandbox.lock:
                self.require_known(sandbox)
                if sandbox.stored.state == "paused":
                    await self.resume_saved(sandbox, timeout_s)
                    return True
                self._set_timeout(sandbox, max(timeout_s, sandbox.deadline - now()))
                return False

        return await self.workers.to_its_end(connect())

    async def resume(self, sandbox: Sandbox, timeout_s: float) -> None:
        async def resume() -> None:
            async with sandbox.lock:
                self.require_known(sandbox)
                if sandbox.stored.state == "running":
                    raise ApiError(409, f"sandbox {sandbox.id!r} is already running")
                await self.resume_saved(sandbox, timeout_s)

        await self.workers.to_its_end(resume())

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
        self.note(sandbox, timeout_s=timeout_s, **until(now() + timeout_s))

    async def connected(self, id: str) -> tuple[Sandbox, Envd]:
        """A sandbox and its envd, for traffic to it; one with auto-resume is resumed."""
        sandbox = self.by_id.get(id)
        if sandbox and sandbox.stored.state == "paused" and sandbox.stored.auto_resume:
            await self.connect(sandbox, sandbox.stored.timeout_s or 300)
        if sandbox is None or sandbox.envd is None or sandbox.envd.gone:
            if sandbox and sandbox.envd and sandbox.envd.broken:
                raise sandbox.envd.ended()
            raise ApiError(502, "sandbox was not found")
        return sandbox, sandbox.envd

    async def set_network_rules(self, sandbox: Sandbox, rules: Mapping[str, Any]) -> None:
        policy(rules)
        async with sandbox.lock:
            self.require_known(sandbox)
            if not sandbox.running:
                raise ApiError(409, f"sandbox {sandbox.id!r} is paused")
            former = sandbox.stored.network
            kept = {name: rule for name, rule in former.items() if name in KEPT_RULES}
            self.note(sandbox, network={**kept, **rules})
            try:
                self.fleet.set_network_rules(sandbox.running, rules)
            except BaseException:
                self.note(sandbox, network=former)
                raise


def new_id() -> str:
    """The id of a new sandbox."""
    return "i" + secrets.token_hex(10)
