"""What a guest runs before it is checkpointed, stopped for a pool or forked, by accelerator.

Nothing here knows a nonce that will be measured: a guest does beforehand what any caller will have
it do, so that what is left for the caller's time is the caller's own work.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from harness.sandbox.base import ECHO
from harness.sandbox.qemu.sandbox import QemuSandbox


@dataclass(frozen=True)
class Preparation:
    """How often and how long; seconds."""

    settle_s: float
    """What a booted guest runs before the first warm-up."""
    warm_ups: int
    """Processes that a booted guest runs before it is checkpointed or stopped."""
    pool_rehearsals: int
    """Wake-ups with a process of each sandbox that is stopped for a pool."""
    pool_rest_s: float
    """What it idles after that process before it is stopped."""
    zygote_rehearsals: int
    """The same of a guest that will be forked; forks are not rehearsed."""
    zygote_rest_s: float

    def facts(self) -> Mapping[str, float]:
        """What is done to a guest before it is checkpointed, for the manifest."""
        return {"settle_s": self.settle_s, "warm_ups": self.warm_ups}

    def warm_up(self, guest: QemuSandbox) -> None:
        """Prepare a guest that has booted."""
        time.sleep(self.settle_s)
        for number in range(self.warm_ups):
            guest.agent.set_wall_clock()
            guest.agent.run((ECHO, str(number)))

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


TRANSLATED = Preparation(
    # TCG translates the kernel's housekeeping.
    settle_s=1.0,
    # TCG translates the start of a process.
    warm_ups=8,
    # Nothing else warms the paths of a wake-up.
    pool_rehearsals=1,
    # Otherwise the kernel cleans up the last process later, while a caller waits.
    pool_rest_s=0.2,
    # Forks share what the zygote has translated and touched.
    zygote_rehearsals=8,
    # Rests of a second would save another 50 KiB per fork.
    zygote_rest_s=0.4,
)
PREPARATIONS: Mapping[str, Preparation] = {"tcg": TRANSLATED, "kvm": TRANSLATED}
"""By accelerator."""


def arm_and_stop(guest: QemuSandbox) -> None:
    guest.arm()
    guest.stop()
