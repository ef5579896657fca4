"""The contract between substrates and rigs: what a substrate must implement.

A substrate launches sandboxes. A sandbox boots, or is restored from a checkpoint on disk; it can be
stopped and continued (by a monitor, a signal or a control group); an agent inside answers requests
over one channel. How this is done is up to the substrate. `harness.testing` tests this contract.

Order of calls, each by the rig or by a `Pool`:

    requirements -> prepare -> launch, any number of times      one template serves all launches
    launch -> awaken -> first_exec -> touch -> destroy          the ladder of a cold start
              awaken -> adopt_identity -> ... -> destroy        a fleet, whose sandboxes stay
              awaken -> arm -> stop -> awaken -> ...            stopped and woken again

`destroy` may be called at any time, and more than once. `launch` may be called from several threads
at once; the methods of one sandbox are called from one thread at a time. `awaken`, `first_exec` and
`touch` are timed: they must not import modules or start programs that the sandbox does not need.

Times are seconds of `time.perf_counter`, memory is in bytes unless a name says MiB. Errors are
classes of `harness.errors`: SandboxError (GuestDied, GuestTimeout, WrongAnswer) when a sandbox
fails, Unsupported when the host cannot do what is asked, UsageError for a wrong call. A rig counts
these as failures of one sandbox; any other exception ends the run.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol, TypeVar

from harness.errors import CoppiceError, PluginError, UsageError
from harness.guest.agent_client import Agent, Finished
from harness.host.identity import Identity
from harness.host.requirement import Requirement
from harness.host.run import Run
from harness.measure.record import Image

GROUP = "coppice.substrates"
OURS = "coppice-harness"
"""The distribution that holds this module."""


class Tier(enum.StrEnum):
    """The state in which sandboxes wait for a request.

    `full`: none exists; a request boots one. `durable-pool`: a checkpoint on disk, which a request
    restores; an empty VMM may wait in memory, guest state may not. `durable-prewarm-pool`:
    sandboxes restored from the checkpoint and stopped in memory. `prewarm-pool`: sandboxes booted
    and stopped in memory; a reboot of the host loses them.
    """

    FULL = "full"
    DURABLE_POOL = "durable-pool"
    DURABLE_PREWARM_POOL = "durable-prewarm-pool"
    PREWARM_POOL = "prewarm-pool"

    @property
    def restores(self) -> bool:
        """Whether sandboxes come from a checkpoint."""
        return self in (Tier.DURABLE_POOL, Tier.DURABLE_PREWARM_POOL)

    @property
    def waits_in_memory(self) -> bool:
        """Whether sandboxes wait in memory, running no code, before a request."""
        return self in (Tier.DURABLE_PREWARM_POOL, Tier.PREWARM_POOL)


class Sharing(enum.StrEnum):
    """Which memory pages restored sandboxes share, until one of them writes to the page.

    `private`: none, each sandbox has a full copy. `mapped`: the checkpoint's pages. `merged`: the
    same, and all pages that the kernel finds equal (KSM). `forked`: all pages of one restored
    sandbox and its VMM. `started`: the checkpoint's pages, and those of one VMM that has started
    and has no VM yet.
    """

    PRIVATE = "private"
    MAPPED = "mapped"
    MERGED = "merged"
    FORKED = "forked"
    STARTED = "started"


class Role(enum.StrEnum):
    """Which rigs run a substrate.

    `subject`: every rig that its capabilities suit. `reference`: the comparison, and other rigs
    when the user names it with --substrate. `control`: makes no sandbox, and shows what the
    harness itself costs.
    """

    SUBJECT = "subject"
    REFERENCE = "reference"
    CONTROL = "control"


@dataclass(frozen=True)
class Compared:
    """How a substrate takes part in the comparison: one column for each of `tiers`.

    `fleet` is the tier in which many of its sandboxes are brought up at once; None: no fleet.
    """

    tiers: Sequence[Tier] = (Tier.FULL,)
    fleet: Tier | None = Tier.FULL


@dataclass(frozen=True)
class HostProcess:
    """A sandbox's process on this host. `guest_memory` is a prefix of the path that
    /proc/PID/maps shows for the file that backs guest memory; empty where no file does."""

    pid: int
    guest_memory: str


class Sandbox(Protocol):
    """One sandbox. The caller of `launch` must call `destroy`, whatever happens."""

    id: str
    identity: Identity

    @property
    def agent(self) -> Agent: ...

    def awaken(self, timeout_s: float) -> float:
        """Bring it to a verified answer from any state: booting, empty, stopped or running.

        Sends a random nonce (timed with the rest) that the agent must answer correctly. Returns the
        moment at which the answer arrived. Raises GuestTimeout after `timeout_s` seconds, GuestDied
        when the sandbox ended, WrongAnswer.
        """

    @property
    def process(self) -> HostProcess | None:
        """Its process on this host, whose memory can be counted; None where there is none."""

    def adopt_identity(self) -> None:
        """Apply its identity (hostname, machine id, addresses, key) now.

        Without this call `first_exec` applies it. Call it after `awaken`; a second call does no
        harm.
        """

    def first_exec(self, word: str) -> Finished:
        """Run `/bin/echo word` inside, and return its exit code and output.

        Before that the sandbox gets what it lacks: its identity after a restore, its wall clock
        after a stop. Call it after `awaken`.
        """

    def touch(self, mib: int) -> None:
        """Write one word into every page of `mib` MiB of memory inside. Call it after `awaken`."""

    def resumed_at(self) -> float:
        """The moment at which the last `awaken` let its vCPU or processes run.

        0 where they ran as soon as the sandbox existed. Called once after `awaken`, off the timed
        path; may ask the VMM, and raise what `awaken` raises.
        """

    def arm(self) -> None:
        """Prepare for `stop`: afterwards the agent waits where `awaken` reaches it fastest.

        Called directly before `stop`. May do nothing.
        """

    def stop(self) -> None:
        """Stop every vCPU or process; memory is kept. `awaken` continues it."""

    def destroy(self) -> None:
        """End it, remove everything it had on the host, and release its identity.

        Works in every state; a second call does nothing.
        """


class Template(Protocol):
    """What `prepare` returns and `launch` needs, such as images and a checkpoint. Immutable.

    `images` are recorded with every measurement; `accelerator` names the kind of virtualisation,
    None where there is none.
    """

    @property
    def images(self) -> Sequence[Image]: ...

    @property
    def accelerator(self) -> str | None: ...


T = TypeVar("T", bound=Template)


class Substrate(Protocol[T]):
    """Launches sandboxes.

    An entry point of the group `coppice.substrates` names a class or function that returns a
    substrate when called without arguments.
    """

    name: str
    own_kernel: bool
    """Whether each sandbox runs its own kernel; the ladder then verifies it."""
    tiers: Sequence[Tier]
    sharings: Sequence[Sharing]
    """How restored sandboxes can share memory; empty: density is not measured."""
    network: bool
    """Whether `launch` takes a tap, or gives each sandbox an address under network policy."""
    role: Role
    compared: Compared | None
    """None: not in the comparison."""
    boot_cpu_s: float
    """CPU seconds that one boot takes, estimated: rigs plan the number of boots by it."""
    tools: Sequence[str]
    """Programs whose versions are recorded."""
    not_offered: Mapping[str, str]
    """Rungs of the ladder that its sandboxes cannot reach, each with the reason: first-exec where
    they run no programs. What rigs would measure by them is recorded as not offered."""

    def requirements(self) -> Sequence[Requirement]:
        """What this host must have, for `coppice doctor` and `prepare`. Changes nothing."""

    def memory_per_sandbox(self, tier: Tier) -> int:
        """Host memory that one more sandbox of a tier takes, in bytes; an upper estimate."""

    def prepare(self, run: Run, cache: Path, tier: Tier) -> T:
        """Build images, and the checkpoint where the tier restores one, or find them in `cache`.

        Slow the first time. Called once for a run and tier, before the first `launch`. Raises
        Unsupported when this host cannot run the substrate.
        """

    def launch(
        self,
        run: Run,
        template: T,
        tier: Tier,
        identity: Identity,
        sharing: Sharing = Sharing.MAPPED,
        tap: int | None = None,
    ) -> Sandbox:
        """Launch a sandbox in the state of its tier: booting, empty, or stopped in memory.

        The sandbox owns `identity`. A launch that fails leaves nothing behind and releases the
        identity; after a UsageError the caller still owns it.

        `sharing` applies to tiers that restore: for `merged` the caller keeps `harness.host.ksm`
        enabled; for `forked` and `started` `template` is one that `zygote` yields, and a forked
        sandbox is stopped in memory whatever the tier. `tap` is a descriptor that connects the
        sandbox's NIC to a network (`Cubenet.attach_tap`); substrates without taps raise UsageError.
        """

    def zygote(
        self,
        run: Run,
        template: T,
        tap: int | None = None,
        sharing: Sharing = Sharing.FORKED,
    ) -> AbstractContextManager[T]:
        """A copy of the template with a zygote to fork sandboxes from: a restored, stopped sandbox,
        or for Sharing.STARTED a VMM that has no VM yet.

        Leaving the context ends the zygote. With a `tap` every fork needs one of its own. Raises
        Unsupported where that cannot be forked.
        """


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "a package without a name"


def _entries() -> tuple[dict[str, EntryPoint], list[EntryPoint]]:
    """The entry point that counts for each name, and those whose name was taken before.

    Ours count first, so that no package that is installed replaces them in secret.
    """
    entries = sorted(
        entry_points(group=GROUP),
        key=lambda entry: (_distribution(entry) != OURS, _distribution(entry)),
    )
    counts: dict[str, EntryPoint] = {}
    refused = []
    for entry in entries:
        first = counts.setdefault(entry.name, entry)
        if _distribution(first) != _distribution(entry):
            refused.append(entry)
    return counts, refused


def registered(distribution: str | None = None) -> dict[str, str]:
    """The names of the registered substrates, each with its implementation (module:attribute).

    With a `distribution`, only those of its entry points.
    """
    return {
        name: entry.value
        for name, entry in _entries()[0].items()
        if distribution in (None, _distribution(entry))
    }


def refused() -> dict[str, str]:
    """Substrates that are left out since another has their name: which, and why."""
    counts, refused = _entries()
    return {
        f"the substrate {entry.name} of {_distribution(entry)}": "its name is taken: "
        f"{entry.name} is a substrate of {_distribution(counts[entry.name])}"
        for entry in refused
    }


def load(name: str) -> Substrate[Template]:
    """The substrate registered under a name.

    Raises UsageError when there is none, PluginError when its package does not keep the protocol.
    """
    entry = _entries()[0].get(name)
    if entry is None:
        raise UsageError(
            f"no substrate is named {name!r}", hint=f"one of: {', '.join(sorted(registered()))}"
        )
    try:
        substrate: Substrate[Template] = entry.load()()
    except CoppiceError:
        raise
    except Exception as error:  # another package may fail in any way
        raise PluginError(
            f"the substrate {name} of {_distribution(entry)} does not load: {error!r}"
        ) from error
    if wrong := _wrong(substrate, name):
        raise PluginError(f"the substrate {name} of {_distribution(entry)}: {wrong}")
    return substrate


def _all(kind: type, values: object) -> bool:
    return isinstance(values, tuple | list) and all(isinstance(value, kind) for value in values)


def _wrong(substrate: object, name: str) -> str | None:
    """The first attribute that is not what the protocol says; its methods are only looked up."""
    missing = object()
    checks: dict[str, tuple[str, Callable[[object], bool]]] = {
        "name": (f"{name!r}, as it is registered", lambda value: value == name),
        "own_kernel": ("a bool", lambda value: isinstance(value, bool)),
        "tiers": ("a tuple of Tier", lambda value: _all(Tier, value)),
        "sharings": ("a tuple of Sharing", lambda value: _all(Sharing, value)),
        "network": ("a bool", lambda value: isinstance(value, bool)),
        "role": ("a Role", lambda value: isinstance(value, Role)),
        "compared": ("Compared or None", lambda value: isinstance(value, Compared | None)),
        "boot_cpu_s": ("a number", lambda value: isinstance(value, int | float)),
        "tools": ("a tuple of str", lambda value: _all(str, value)),
        "not_offered": (
            "a mapping of rungs to reasons",
            lambda value: isinstance(value, Mapping) and _all(str, (*value, *value.values())),
        ),
    }
    for method in ("requirements", "memory_per_sandbox", "prepare", "launch", "zygote"):
        checks[method] = ("a method", callable)
    for attribute, (expected, fits) in checks.items():
        value = getattr(substrate, attribute, missing)
        if value is missing:
            return f"it has no {attribute}; expected {expected}"
        if not fits(value):
            return f"its {attribute} is {value!r}; expected {expected}"
    return None
