"""The stages of a change of a sandbox's state, announced to observers.

The gateway calls `reached` at each stage and continues when all observers have returned. Tests use
it to kill the gateway at a certain stage without guessing from a clock (tests/gateway/staged.py).
Without observers a call costs an empty loop.
"""

from __future__ import annotations

from collections.abc import Callable

TAKEN = "taken"
"""A sandbox for a creation exists; it is not stored yet."""
CREATED = "created"
"""It is stored; the caller has no answer yet."""
SAVING_NOTED = "saving-noted"
"""It is stored where a running sandbox will be saved; nothing has happened to it yet."""
ARMED = "armed"
"""A microVM waits at its doorbell; its vCPU has not been stopped yet."""
STOPPED = "stopped"
"""A sandbox is stopped; nothing of it is saved yet."""
WRITTEN = "written"
"""All files of a save are written; their directory has no name yet."""
SAVED = "saved"
"""A save is complete; the store does not refer to it yet."""
PAUSE_NOTED = "pause-noted"
"""It is stored that a sandbox is paused; it still exists."""
ENDED = "ended"
"""A paused sandbox has ended; the caller has no answer yet."""
RESTORED = "restored"
"""A sandbox was resumed from its save; the store does not know it."""
RESUME_NOTED = "resume-noted"
"""It is stored that it runs; the caller has no answer yet."""
SNAPSHOT_NOTED = "snapshot-noted"
"""A snapshot is stored; its sandbox has not continued yet."""
REMOVAL_NOTED = "removal-noted"
"""A sandbox is no longer stored; it still exists."""
STAGES = (
    TAKEN, CREATED, SAVING_NOTED, ARMED, STOPPED, WRITTEN, SAVED, PAUSE_NOTED, ENDED, RESTORED,
    RESUME_NOTED, SNAPSHOT_NOTED, REMOVAL_NOTED,
)  # fmt: skip

Observer = Callable[[str], None]
observers: list[Observer] = []


def reached(stage: str) -> None:
    """Announce a stage; blocks until all observers have returned."""
    for observer in observers:
        observer(stage)
