"""What a substrate must offer, so that every rig can drive it.

A substrate makes sandboxes. The protocols fit QEMU, bhyve and shared-kernel sandboxes alike: a
sandbox boots or is restored from a checkpoint on disk, can be stopped and continued (by a monitor
or by a signal), and is spoken to through an agent on one line. Nothing here says how.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, TypeVar

from harness.errors import UsageError
from harness.guest.agent_client import Agent, Finished
from harness.host.identity import Identity
from harness.host.requirement import Requirement
from harness.host.run import Run
from harness.measure.record import Image

GROUP = "coppice.substrates"


class Tier(enum.StrEnum):
    """How a sandbox comes to be.

    `full` boots a kernel. `durable-pool` restores the checkpoint from disk on demand; a VMM may
    wait, guest state may not. `durable-prewarm-pool` keeps sandboxes restored and stopped in
    memory. `prewarm-pool` keeps booted sandboxes stopped in memory, gone after a reboot.
    """

    FULL = "full"
    DURABLE_POOL = "durable-pool"
    DURABLE_PREWARM_POOL = "durable-prewarm-pool"
    PREWARM_POOL = "prewarm-pool"

    @property
    def restores(self) -> bool:
        """Whether its guests come from a checkpoint."""
        return self in (Tier.DURABLE_POOL, Tier.DURABLE_PREWARM_POOL)

    @property
    def waits_in_memory(self) -> bool:
        """Whether its guests stand ready before they are asked for."""
        return self in (Tier.DURABLE_PREWARM_POOL, Tier.PREWARM_POOL)


class Sharing(enum.StrEnum):
    """What restored sandboxes share of their memory.

    `private`: nothing, each has a full copy. `mapped`: the checkpoint's pages, each until it is
    written to. `merged`: these, and whatever else the kernel finds equal (samepage merging).
    `forked`: all that one restored sandbox and its VMM hold, each page until it is written to.
    """

    PRIVATE = "private"
    MAPPED = "mapped"
    MERGED = "merged"
    FORKED = "forked"


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
    """The process that a sandbox is on its host; `guest_memory` begins the path of the file that
    backs the guest's memory, as the process's list of mappings has it."""

    pid: int
    guest_memory: str


class Sandbox(Protocol):
    """One sandbox. Whoever launched it destroys it, on every way out."""

    id: str
    identity: Identity

    @property
    def agent(self) -> Agent: ...

    def awaken(self, timeout_s: float) -> float:
        """From whatever state it is in to the verified answer to a random nonce.

        Returns when the answer was there, in seconds of time.perf_counter. Raises SandboxError.
        """

    @property
    def process(self) -> HostProcess | None:
        """Its process on this host; None where it has none, or the guest's memory has no file."""

    def adopt_identity(self) -> None:
        """Make the guest who it is, now rather than with its first process."""

    def first_exec(self, word: str) -> Finished:
        """Run the first process, which prints `word`; identity or wall clock go before it."""

    def touch(self, mib: int) -> None:
        """Write one word in every page of `mib` MiB of its memory."""

    def resumed_at(self) -> float:
        """When its vCPU or processes were let run by the last `awaken`; perf_counter seconds."""

    def arm(self) -> None:
        """Bring it to where `stop` may hold it and `awaken` finds it fastest."""

    def stop(self) -> None:
        """Hold every vCPU or process; memory stays."""

    def destroy(self) -> None:
        """End it and remove all that it had; safe to call twice."""


class Template(Protocol):
    """What a substrate prepared once for launching: images, and a checkpoint where one is used."""

    @property
    def images(self) -> Sequence[Image]: ...

    @property
    def accelerator(self) -> str | None: ...


T = TypeVar("T", bound=Template)


class Substrate(Protocol[T]):
    """Makes sandboxes. Registered under the entry point group `coppice.substrates`."""

    name: str
    own_kernel: bool
    """Whether each sandbox runs a kernel of its own, which the ladder then proves."""
    tiers: Sequence[Tier]
    sharings: Sequence[Sharing]
    """How restored sandboxes can share memory; empty: density is not measured."""
    network: bool
    """Whether `launch` takes a tap, or gives each sandbox an address under network policy."""
    role: Role
    compared: Compared | None
    """None: not in the comparison."""
    boot_cpu_s: float
    """Processor seconds that one boot takes, as an estimate: rigs plan how many boots to try."""
    tools: Sequence[str]
    """Programs whose versions belong on the record."""

    def requirements(self) -> Sequence[Requirement]:
        """What this host must have; looks, and changes nothing."""

    def memory_per_sandbox(self, tier: Tier) -> int:
        """Bytes that one more sandbox of a tier takes from the host, estimated from above."""

    def prepare(self, run: Run, cache: Path, tier: Tier) -> T:
        """Build or find images, and the checkpoint where the tier needs one. Slow the first time.

        Raises Unsupported when this host cannot run the substrate.
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
        """A sandbox as its tier keeps it: booting, an empty VMM, or stopped in memory.

        `sharing` is of a tier that restores. For `merged` the caller holds harness.host.ksm;
        for `forked`, which are always held in memory, the template is one of `zygote`. `tap` is the
        descriptor that plugs its card into a network (`Cubenet.attach_tap`).
        """

    def zygote(self, run: Run, template: T, tap: int | None = None) -> AbstractContextManager[T]:
        """The template with one sandbox restored and held, which `forked` ones are copies of.

        With a `tap` its copies need one each. Raises Unsupported where nothing can be forked.
        """


def registered(distribution: str | None = None) -> dict[str, str]:
    """Names of the registered substrates, each with where it is implemented.

    With a `distribution`, only those that it brings.
    """
    return {
        entry.name: entry.value
        for entry in entry_points(group=GROUP)
        if distribution is None or (entry.dist is not None and entry.dist.name == distribution)
    }


def load(name: str) -> Substrate[Template]:
    """The substrate of this name; UsageError when none is registered under it."""
    for one in entry_points(group=GROUP):
        if one.name == name:
            substrate: Substrate[Template] = one.load()()
            return substrate
    raise UsageError(
        f"no substrate is called {name!r}; there are {', '.join(sorted(registered()))}"
    )
