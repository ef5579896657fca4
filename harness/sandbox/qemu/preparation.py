"""What a guest runs before it is checkpointed, stopped for a pool or forked, by accelerator.

Nothing here knows a nonce that will be measured: a guest does beforehand what any caller will have
it do, so that what is left for the caller's time is the caller's own work.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.errors import SandboxError
from harness.sandbox.base import ECHO
from harness.sandbox.qemu.sandbox import QemuSandbox


@dataclass(frozen=True)
class WarmUp:
    """What a guest runs once it has booted: it idles, then runs small processes.

    `first_time`: before, it does what a kernel does once in its life when it gets its first
    identity. It seeds its random generator, which patches the kernel's code, and its NIC goes up,
    which fills the queue of received packets. It has no address yet, so it sends nothing.
    """

    idle_s: float
    processes: int
    first_time: bool = False

    def run(self, guest: QemuSandbox) -> None:
        if self.first_time:
            guest.agent.stir()
            _nic_up(guest)
        time.sleep(self.idle_s)
        for number in range(self.processes):
            guest.agent.set_wall_clock()
            guest.agent.run((ECHO, str(number)))


@dataclass(frozen=True)
class Preparation:
    """How often and how long; seconds."""

    sealing: WarmUp
    """Of a guest that will be checkpointed."""
    booted: WarmUp
    """Of a guest that is stopped for a pool without a checkpoint."""
    pool_rehearsals: int
    """Wake-ups with a process of each sandbox that is stopped for a pool."""
    pool_rest_s: float
    """What it idles after that process before it is stopped."""
    zygote_rehearsals: int
    """The same of a guest that will be forked; forks are not rehearsed."""
    zygote_rest_s: float

    def facts(self) -> Mapping[str, float]:
        """What is done to a guest before it is checkpointed, for the manifest."""
        return {
            "settle_s": self.sealing.idle_s,
            "warm_ups": self.sealing.processes,
            "first_time": self.sealing.first_time,
        }

    def rehearse_for_pool(self, guest: QemuSandbox, timeout_s: float) -> None:
        """Have a stopped guest do what a caller will do, and stop it again."""
        for _ in range(self.pool_rehearsals):
            guest.awaken(timeout_s)
            guest.first_exec("rehearsal")
            time.sleep(self.pool_rest_s)
            arm_and_stop(guest)

    def rehearse_for_forks(self, guest: QemuSandbox, timeout_s: float) -> None:
        """Have a running guest do what its forks will do, and stop it."""
        for _ in range(self.zygote_rehearsals):
            guest.adopt_identity()
            guest.agent.hello()
            guest.agent.ping()
            guest.first_exec("rehearsal")
            time.sleep(self.zygote_rest_s)
            arm_and_stop(guest)
            guest.awaken(timeout_s)
        arm_and_stop(guest)


# Each value says what it was measured to buy, in interleaved pairs of fresh sandboxes on two shared
# cores: the processor time of the VMM, since a busy host moves that least.
SEALING = WarmUp(
    # A second bought nothing: 0.96 to 1.04 times the processor time of a first process.
    idle_s=0.0,
    # Two bought as much as eight; with none, a first process takes 1.04 to 1.13 times as long.
    # What stays in a checkpoint are the kernel's caches, never translated code.
    processes=2,
    # With it, and no announcement of the NIC (arrival.py), a first process after a restore takes
    # 0.80 times as long with the distribution's kernel, and 0.87 times with a slim one.
    first_time=True,
)
TRANSLATED = Preparation(
    sealing=SEALING,
    # Its translated code stays: without the second a first process takes 1.23 to 1.58 times as
    # long, with no processes 1.15 to 1.54 times, with two 1.00 to 1.48 times.
    booted=WarmUp(idle_s=1.0, processes=8),
    # Without it a first process takes 6 to 14 times as long; a second one bought nothing.
    pool_rehearsals=1,
    # The kernel cleans up the last process. Without it that falls into the caller's time: a reply
    # takes 1.1 to 4.1 times as much processor time, a first process 1.01 to 1.54 times.
    pool_rest_s=0.2,
    # Forks share what the zygote has translated and touched.
    zygote_rehearsals=8,
    # Rests of a second would save another 50 KiB per fork.
    zygote_rest_s=0.4,
)
# Nothing is translated: a guest that has booted is prepared like one that is checkpointed. The
# rehearsal stays, since it also touches the memory that a first process writes to.
NATIVE = replace(TRANSLATED, booted=replace(SEALING, first_time=False))
PREPARATIONS: Mapping[str, Preparation] = {"tcg": TRANSLATED, "kvm": NATIVE}
"""By accelerator."""


def arm_and_stop(guest: QemuSandbox) -> None:
    guest.arm()
    guest.stop()


def _nic_up(guest: QemuSandbox) -> None:
    """Raise SandboxError with what the guest's `ip` has printed."""
    done = guest.agent.run(("ip", "link", "set", "eth0", "up"))
    if done.code:
        said = done.stderr.decode(errors="replace").strip()
        raise SandboxError(f"{guest.id}: its NIC did not go up: {said}")
