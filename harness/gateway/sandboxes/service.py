"""Sandboxes of API keys, from creation to their end: states, time limits, snapshots, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
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
from harness.gateway.fleets.microvm_fleet import Fleet, Live
from harness.gateway.fleets.network import policy
from harness.gateway.metrics import Meter
from harness.gateway.sandboxes.entries import ABOUT, Entry, deadline_of, locate, now
from harness.gateway.sandboxes.saved import Saved, remove_all
from harness.gateway.sandboxes.snapshots import Copies
from harness.gateway.sandboxes.store import Key, Record, Snapshot, Store

LONGEST_S = 24 * 3600
TICK_S = 0.1
READY_LIMIT_S = 60.0
WORKERS = 8
ITS_OWN = ("allowPublicTraffic",)
"""Network rules that a change of the others leaves."""
MOST_WAITING = 1000
"""Creations that wait for the pool at once; one more is told to come again."""
log = logging.getLogger("coppice.gateway")
T = TypeVar("T")


class Sandboxes:
    """All of one gateway; on its event loop, with threads for what blocks."""

    def __init__(self, fleet: Fleet, store: Store, directory: Path, meter: Meter) -> None:
        self.fleet = fleet
        self.store = store
        self.meter = meter
        self.entries: dict[str, Entry] = {}
        self.saved = Saved(directory / "saved")
        self._secret = store.secret()
        self.copies = Copies(self)
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="sandboxes")
        self._savers = ThreadPoolExecutor(2, thread_name_prefix="savers")
        self._pending: dict[str, int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reaper: asyncio.Task[None] | None = None

    # Its own life.

    async def open(self) -> None:
        """Adopt what runs, report what is gone, end what is nobody's."""
        for record in list(self.store.records()):
            await self._recall(record)
        swept = await self.in_thread(self.fleet.sweep)
        if swept:
            log.warning("ended sandboxes that no record had", extra={"fields": {"count": swept}})
        for entry in list(self.entries.values()):
            if entry.record.held:
                await self._let_go(entry)
        remove_all(self._unneeded())
        self._reaper = asyncio.create_task(self._reap())

    async def _recall(self, record: Record) -> None:
        entry = Entry(record, deadline=deadline_of(record))
        self.entries[record.id] = entry
        if record.state == "running" and record.pid:
            try:
                about = {name: getattr(record, name) for name in ABOUT}
                entry.live = await self.in_thread(lambda: self.fleet.adopt(about))
                entry.envd = await entry.live.connect()
                self.fleet.police(entry.live, record.network)
                entry.say("adopted after a restart of the gateway")
                self.meter.count("adopted")
                return
            except (CoppiceError, OSError) as error:
                log.warning("gone", extra={"fields": {"sandbox": record.id, "why": str(error)}})
                self.meter.count("gone")
        if record.saved and Path(record.saved).is_dir():
            record.state, record.pid = "paused", 0
            self.store.put(record)
            return
        del self.entries[record.id]
        self.store.remove(record.id)

    async def _let_go(self, entry: Entry) -> None:
        """One that was held because its gateway was stopped runs again."""
        entry.record.held = False
        try:
            async with entry.lock:
                await self._resume(entry, entry.record.timeout_s)
        except (CoppiceError, OSError) as error:  # it stays paused
            log.error("not resumed", extra={"fields": {"sandbox": entry.id, "why": str(error)}})
            self.store.put(entry.record)

    async def close(self) -> None:
        """Save what runs, so that the next gateway has it running again."""
        if self._reaper:
            self._reaper.cancel()
        for task in list(self._tasks):
            task.cancel()
        running = [entry for entry in self.entries.values() if entry.live]

        async def hold(entry: Entry) -> None:
            with contextlib.suppress(CoppiceError, ApiError, OSError):
                async with entry.lock:
                    entry.record.held = True
                    await self._pause(entry)
            self._end(entry)

        await asyncio.gather(*(hold(entry) for entry in running))
        self._workers.shutdown(cancel_futures=True)
        self._savers.shutdown()

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            at = now()
            for entry in list(self.entries.values()):
                running = entry.record.state == "running"
                if entry.lock.locked() or not entry.live:
                    continue
                if running and at >= entry.deadline:
                    self.spawn(self._time_is_up(entry))
                elif entry.envd and entry.envd.gone:
                    self.spawn(self._has_died(entry))

    def spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _time_is_up(self, entry: Entry) -> None:
        async with entry.lock:
            if now() < entry.deadline or not entry.live:
                return
            self.meter.count("timeouts")
            try:
                if entry.record.auto_pause:
                    await self._pause(entry)
                    return
            except CoppiceError as error:
                log.error("not paused", extra={"fields": {"sandbox": entry.id, "why": str(error)}})
            await self._remove(entry)

    async def _has_died(self, entry: Entry) -> None:
        async with entry.lock:
            if entry.live and not entry.live.alive():
                self.meter.count("died")
                log.warning("died", extra={"fields": {"sandbox": entry.id}})
                await self._remove(entry)

    async def in_thread(self, work: Callable[[], T], saver: bool = False) -> T:
        pool = self._savers if saver else self._workers
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    # Creation and end.

    def _admit(self, key: Key, count: int = 1) -> None:
        own = [one.record for one in self.entries.values() if one.record.key_id == key.id]
        running = sum(one.state != "paused" for one in own) + self._pending.get(key.id, 0)
        if running + count > key.limits.sandboxes:
            raise ApiError(429, f"this key may have {key.limits.sandboxes} sandboxes at once")
        if (running + count) * self.fleet.memory_mib > key.limits.memory_mib:
            raise ApiError(429, f"this key may have {key.limits.memory_mib} MiB of memory at once")

    @property
    def waiting(self) -> int:
        """Creations that have begun and not ended."""
        return sum(self._pending.values())

    def has_ready(self, template: str) -> bool:
        """Whether a sandbox of this template need not be waited for."""
        fleet = self.fleet
        return template in fleet.templates() and fleet.ready().get(template, 1) > 0

    @contextlib.contextmanager
    def pending_of(self, key: Key, count: int = 1) -> Any:
        self._admit(key, count)
        if self.waiting >= MOST_WAITING:
            raise ApiError(503, "too many sandboxes are being created; try again in a moment")
        self._pending[key.id] = self._pending.get(key.id, 0) + count
        try:
            yield
        finally:
            self._pending[key.id] -= count

    def admit_kind(self, memory: bool) -> None:
        """ApiError 400 where what is to be saved, memory or files alone, cannot be here."""
        if memory != self.fleet.keeps_memory:
            raise ApiError(400, self.fleet.cannot)

    async def create(self, key: Key, body: Mapping[str, Any], default_s: float) -> Entry:
        """A running sandbox, as E2B's body asks for it."""
        timeout_s = _timeout(body, default_s)
        rules = dict(body.get("network") or {})
        if body.get("allow_internet_access") is not None:
            rules["allow_internet_access"] = body["allow_internet_access"]
        if rules:
            policy(rules)  # refused before anything is made
        if body.get("autoPause"):
            self.admit_kind(body.get("autoPauseMemory") is not False)
        template, snapshot = body["templateID"], None
        if template not in self.fleet.templates():
            snapshot = self.copies.find(key, template)
        with self.pending_of(key):
            live = await self._live(template, snapshot)
            resume = body.get("autoResume") or {}
            record = Record(
                "i" + secrets.token_hex(10), key.id, template, "running", time.time(),
                time.time() + timeout_s,
                metadata=dict(body.get("metadata") or {}),
                environment=dict(body.get("envVars") or {}),
                network=rules,
                auto_pause=bool(body.get("autoPause")),
                auto_resume=bool(resume.get("enabled") if isinstance(resume, Mapping) else resume),
                secure=body.get("secure") is not False,
                timeout_s=timeout_s,
            )  # fmt: skip
            return await self.admitted(record, live)

    async def _live(self, template: str, snapshot: Snapshot | None) -> Live:
        if snapshot is None:
            return await self.fleet.take(template, READY_LIMIT_S)
        directory = Path(snapshot.directory)
        return await self.in_thread(lambda: self.fleet.resume(directory, None), saver=True)

    async def admitted(self, record: Record, live: Live) -> Entry:
        entry = Entry(record, live)
        entry.end_at(now() + record.timeout_s)
        locate(record, live)
        self.entries[record.id] = entry
        self.store.put(record)
        try:
            if record.network:
                self.fleet.police(live, record.network)
            entry.envd = await live.connect()
        except BaseException:
            await self._remove(entry)
            raise
        entry.say("sandbox created", template=record.template)
        self.meter.count("created")
        return entry

    def of(self, key: Key, id: str) -> Entry:
        """A key's sandbox; ApiError 404 for one that is another's, as for one that is not."""
        entry = self.entries.get(id)
        if entry is None or entry.record.key_id != key.id:
            raise not_found(id)
        return entry

    async def kill(self, entry: Entry) -> None:
        async with entry.lock:
            if entry.id not in self.entries:
                raise not_found(entry.id)
            await self._remove(entry)

    async def _remove(self, entry: Entry) -> None:
        self.entries.pop(entry.id, None)
        self.store.remove(entry.id)
        await self.in_thread(lambda: self._end(entry))
        self.spawn(self.clear())
        self.meter.count("ended")

    def _end(self, entry: Entry) -> None:
        live, entry.live = entry.live, None
        if live:
            live.destroy()

    # Pausing and resuming.

    async def pause(self, entry: Entry) -> None:
        async with entry.lock:
            self.still(entry)
            if entry.record.state == "paused":
                raise ApiError(409, f"sandbox {entry.id!r} is paused already")
            await self._pause(entry)

    async def _pause(self, entry: Entry) -> None:
        live = entry.live
        assert live
        with self.saved.begun(entry.id) as directory:
            await self.in_thread(lambda: self.fleet.save(live, directory, True), saver=True)
            entry.record.saved, entry.record.state = str(directory), "paused"
            entry.record.pid = 0
            self.store.put(entry.record)
            entry.synced = False
            if entry.envd:
                entry.envd.close()
            entry.envd = entry.live = None
        self.spawn(self.clear())
        entry.say("sandbox paused")
        self.meter.count("paused")

    async def connect(self, entry: Entry, timeout_s: float) -> bool:
        """Make sure that it runs, for at least so long; whether it was paused."""
        async with entry.lock:
            self.still(entry)
            if entry.record.state == "paused":
                await self._resume(entry, timeout_s)
                return True
            self._prolong(entry, max(timeout_s, entry.deadline - now()))
            return False

    async def resume(self, entry: Entry, timeout_s: float) -> None:
        async with entry.lock:
            self.still(entry)
            if entry.record.state == "running":
                raise ApiError(409, f"sandbox {entry.id!r} is running already")
            await self._resume(entry, timeout_s)

    async def _resume(self, entry: Entry, timeout_s: float) -> None:
        record = entry.record
        directory, names = Path(record.saved), dict(record.identity)
        live = await self.in_thread(lambda: self.fleet.resume(directory, names), saver=True)
        entry.live = live
        locate(record, live)
        record.state, record.saved = "running", ""
        self._prolong(entry, timeout_s)
        if record.network:
            self.fleet.police(live, record.network)
        entry.envd = await live.connect()
        entry.say("sandbox resumed")
        self.meter.count("resumed")

    def still(self, entry: Entry) -> None:
        if entry.id not in self.entries:
            raise not_found(entry.id)

    async def set_timeout(self, entry: Entry, timeout_s: float) -> None:
        async with entry.lock:
            self.still(entry)
            if entry.record.state != "running":
                raise not_found(entry.id)
            self._prolong(entry, timeout_s)

    async def refresh(self, entry: Entry, duration_s: float) -> None:
        """Let it live so much longer from now, never shorter than it would."""
        async with entry.lock:
            self.still(entry)
            self._prolong(entry, max(duration_s, entry.deadline - now()))

    def _prolong(self, entry: Entry, timeout_s: float) -> None:
        entry.end_at(now() + timeout_s)
        entry.record.timeout_s = timeout_s
        self.store.put(entry.record)

    async def envd_of(self, id: str) -> tuple[Entry, Envd]:
        """For traffic to a sandbox: one that resumes by itself does so now."""
        entry = self.entries.get(id)
        if entry and entry.record.state == "paused" and entry.record.auto_resume:
            await self.connect(entry, entry.record.timeout_s or 300)
        if entry is None or entry.envd is None or entry.envd.gone:
            raise ApiError(502, "sandbox was not found")
        return entry, entry.envd

    # Network.

    async def police(self, entry: Entry, rules: Mapping[str, Any]) -> None:
        policy(rules)
        async with entry.lock:
            self.still(entry)
            if not entry.live:
                raise ApiError(409, f"sandbox {entry.id!r} is paused")
            self.fleet.police(entry.live, rules)
            kept = {name: one for name, one in entry.record.network.items() if name in ITS_OWN}
            entry.record.network = {**kept, **rules}
            self.store.put(entry.record)

    async def clear(self) -> None:
        unneeded = self._unneeded()
        if unneeded:
            await self.in_thread(lambda: remove_all(unneeded), saver=True)

    def _unneeded(self) -> Sequence[Path]:
        records = [one.record for one in self.entries.values()]
        return self.saved.unneeded(records, self.store.snapshots())

    # Tokens.

    def holder_of(self, token: bytes) -> str | None:
        """The id of the sandbox that has this token for envd; None when none has it."""
        for entry in self.entries.values():
            if hmac.compare_digest(self.token(entry, "envd").encode(), token):
                return entry.id
        return None

    def token(self, entry: Entry, what: str) -> str:
        """A sandbox's token: for envd, or for traffic to its ports."""
        return hmac.digest(self._secret, f"{what}:{entry.id}".encode(), "sha256").hex()


def _timeout(body: Mapping[str, Any], default_s: float) -> float:
    found = body.get("timeout")
    return float(default_s if found is None else found)
