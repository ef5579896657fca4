"""The gateway that used the same state before: what a successor must share with it.

A gateway that was killed, or could not save its sandboxes, leaves them running. A successor with
other options could not take them over, and would have to end them. It is refused before it touches
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.gateway.options import Options
from harness.gateway.sandboxes.store import Store, StoredSandbox
from harness.host import dead_runs, disk_place
from harness.host.run import Run

SUBSTRATE, RUNTIME, DISKS = "substrate", "runtime", "disks"
"""The facts in the database that tell where the sandboxes run."""
END = "or end those sandboxes first"


def note(store: Store, options: Options, run: Run) -> None:
    """Store where the sandboxes run from now on."""
    runtime = run.directory.parent
    store.note(SUBSTRATE, options.substrate)
    store.note(RUNTIME, str(runtime))
    store.note(DISKS, str(disk_place.chosen(runtime)))


@dataclass(frozen=True)
class Predecessor:
    """`running` are its sandboxes that may still run, `held` those that it saved as it ended."""

    running: Sequence[StoredSandbox]
    held: Sequence[StoredSandbox]

    @property
    def has_network(self) -> bool:
        """Whether sandboxes run that have a network interface."""
        return any(stored.identity.get("port") for stored in self.running)

    def require_network(self, given: bool) -> None:
        """Raise UsageError if sandboxes run that have a network interface and get none here, or
        the other way round: their rules would not be enforced."""
        other = [each for each in self.running if bool(each.identity.get("port")) != given]
        if not other:
            return
        if given:
            raise UsageError(
                f"{_count(other)} without a network interface, and this gateway gives one to each",
                hint=f"start it with --no-network, {END}",
            )
        raise UsageError(
            f"{_count(other)} with a network interface, and this gateway has no network",
            hint=f"start it without --no-network, {END}",
        )


def predecessor(store: Store, state: Path, options: Options, runtime: Path) -> Predecessor:
    """What the gateway before has left. Raises UsageError for options with which its sandboxes
    could not be taken over; the caller keeps other gateways from using the state."""
    stored = store.sandboxes()
    running = [each for each in stored if each.state == "running"]
    held = [each for each in stored if each.state == "paused" and each.held]
    former = store.fact(RUNTIME, _path)
    elsewhere = former and Path(former) != runtime
    if running and former and elsewhere and dead_runs.waiting_for(Path(former), state):
        raise UsageError(
            f"{_count(running)} in {former}, and this gateway would use {runtime}",
            hint=f"set COPPICE_RUNTIME={former}, {END}",
        )
    if not dead_runs.waiting_for(runtime, state):
        running = []  # they have ended
    substrate = store.fact(SUBSTRATE)
    if (running or held) and substrate and substrate != options.substrate:
        raise UsageError(
            f"{_count([*running, *held])} on the substrate {substrate}, and {options.substrate} "
            "cannot take them over",
            hint=f"start it with --substrate {substrate}, choose another directory with --state, "
            f"{END}",
        )
    disks = store.fact(DISKS, _path)
    if running and disks and Path(disks) != disk_place.chosen(runtime):
        raise UsageError(
            f"{_count(running)} on disks in {disks}, and this gateway would have them in "
            f"{disk_place.chosen(runtime)}",
            hint=f"set {disk_place.VARIABLE}={disks}, {END}",
        )
    found = Predecessor(running, held)
    if not options.network and found.has_network:
        found.require_network(given=False)
    return found


def _count(sandboxes: Sequence[StoredSandbox]) -> str:
    return "a sandbox runs" if len(sandboxes) == 1 else f"{len(sandboxes)} sandboxes run"


def _path(value: str) -> None:
    if not Path(value).is_absolute() or "\0" in value:
        raise ValueError("not an absolute path")
