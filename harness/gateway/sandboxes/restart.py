"""The sandboxes of a gateway's predecessor, which was stopped or killed.

The store is believed: sandboxes that run are adopted, and a running one that is gone is paused if
its save was complete. What nothing in the store refers to is removed afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from harness import failures
from harness.errors import (
    CheckpointForeign,
    CoppiceError,
    DiskFull,
    LimitReached,
    NotEnoughMemory,
)
from harness.gateway.errors import ApiError
from harness.gateway.fleets.adoption import LOCATION_FIELDS
from harness.gateway.sandboxes.lifecycle import Lifecycle, destroy, log_error
from harness.gateway.sandboxes.sandbox import Sandbox, restored_deadline
from harness.gateway.sandboxes.saved_directories import remove_all

log = logging.getLogger("coppice.gateway")


async def restore(own: Lifecycle) -> None:
    """Adopt the sandboxes that run, drop those that are gone, end orphaned ones."""
    own.store.check()
    stored = own.store.sandboxes()
    for directory in own.saved.put_back(stored, own.store.snapshots()):
        fields = {"directory": str(directory)}
        log.warning("a save that had been set aside is needed again", extra={"fields": fields})
    sandboxes = [Sandbox(each, deadline=restored_deadline(each)) for each in stored]
    for sandbox in sandboxes:
        own.enter(sandbox)
    # Together: a sandbox that hangs answers only after a time limit.
    restoring = (_restore(own, sandbox) for sandbox in sandboxes)
    for result in await asyncio.gather(*restoring, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result  # nothing was ended for it: the next start tries again
    if orphans := await own.workers.short(own.fleet.sweep):
        log.warning("ended orphaned sandboxes", extra={"fields": {"count": orphans}})
    for sandbox in list(own.by_id.values()):
        if sandbox.stored.held and sandbox.stored.state == "paused":
            await _resume_held(own, sandbox)
    await own.workers.short(own.saved.remove_unfinished)
    if not own.store.damaged:
        remove_all(own.unneeded())
        return
    for directory in own.saved.set_aside(own.unneeded()):
        fields = {"directory": str(directory)}
        log.error("the damaged database may refer to a save: it is kept", extra={"fields": fields})


async def _restore(own: Lifecycle, sandbox: Sandbox) -> None:
    stored = sandbox.stored
    if stored.state == "running":
        if await _adopted(own, sandbox):
            return
        if stored.saving and Path(stored.saving).is_dir():
            # Its gateway was killed after it had been saved: nothing of it is lost.
            own.note(
                sandbox, state="paused", saved=stored.saving, saving="", pid=0, came_from="",
                held=False,
            )  # fmt: skip
            log_error("sandbox is gone; its save is complete, so it is paused", sandbox)
            return
    elif Path(stored.saved).is_dir():
        return
    else:
        log_error(f"sandbox is gone: {stored.saved} is missing", sandbox)
        own.metrics.count("gone")
    own.forget(sandbox)
    own.store.remove(stored.id)


async def _adopted(own: Lifecycle, sandbox: Sandbox) -> bool:
    """Whether a sandbox still runs; it is adopted then. Raises errors of this host, such as a full
    disk: no sandbox may be lost for those."""
    stored, running = sandbox.stored, None
    try:
        location = {name: getattr(stored, name) for name in LOCATION_FIELDS}
        running = await own.workers.long(stored.key_id, lambda: own.fleet.adopt(location))
        sandbox.envd = await running.connect()
        own.fleet.set_network_rules(running, stored.network)
        own.note(sandbox, saving="", held=False)
    except (CoppiceError, OSError, LookupError, ValueError, TypeError, OverflowError) as error:
        blocked = isinstance(error, BlockingIOError)  # of a guest's channel
        host = isinstance(failures.typed(error), DiskFull | LimitReached | NotEnoughMemory)
        if host and not blocked:
            raise
        # Not only what fails: a damaged row may say anything of where the sandbox is.
        log_error("sandbox is gone", sandbox, error)
        own.metrics.count("gone")
        if running:
            gone = running  # what cannot be used must not be left to run
            await own.workers.ending(stored.key_id, lambda: destroy(gone))
        return False
    sandbox.running = running
    sandbox.log("adopted after a restart of the gateway")
    own.metrics.count("adopted")
    return True


async def _resume_held(own: Lifecycle, sandbox: Sandbox) -> None:
    """Resume a sandbox that was paused only because its gateway was stopped."""
    try:
        async with sandbox.lock:
            await own.resume_saved(sandbox, sandbox.stored.timeout_s)
    except (CoppiceError, ApiError, OSError) as error:  # it stays paused
        log_error("sandbox was not resumed", sandbox, error)
        # A gateway with the former options can resume what this one cannot.
        own.note(sandbox, held=isinstance(error, CheckpointForeign))
