"""What a guest's kernel says of itself, for the record: its clock source, its mitigations, and
whether its interrupts are masked at the doorbell.

A checkpoint's manifest has these facts of the guest that was saved. A guest that boots has no
manifest, so one is booted for them, once for each image and virtual hardware.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.errors import GuestRefused
from harness.host.cache import entry
from harness.measure.record import Image, Scalar
from harness.sandbox import manifest
from harness.sandbox.qemu.sandbox import QemuSandbox

CLOCK_SOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
VULNERABILITIES = "/sys/devices/system/cpu/vulnerabilities"
CALIBRATING, CALIBRATED_WITHIN_S = "tsc-early", 10.0
"""The clock source of a kernel that still calibrates the TSC, which takes it a second."""
LOOK_S = 0.05
UNKNOWN = "not reported"
FACTS = "facts.json"
_BETWEEN = " | "
"""Between two vulnerabilities: the kernel's texts have semicolons."""


def observed(guest: QemuSandbox) -> dict[str, Scalar]:
    """`clock_source`, and `mitigations`: the state of each vulnerability that the kernel knows.

    Returns once the guest's clock is calibrated: guests restored from an earlier state would each
    do that, while a caller waits.
    """
    clock = _clock_source(guest)
    deadline = time.monotonic() + CALIBRATED_WITHIN_S
    while clock == CALIBRATING and time.monotonic() < deadline:
        time.sleep(LOOK_S)
        clock = _clock_source(guest)
    asked = guest.agent.run(("/bin/sh", "-c", f"cd {VULNERABILITIES} && grep . *"))
    states = asked.stdout.decode(errors="replace").splitlines()
    return {
        "clock_source": clock,
        "mitigations": _BETWEEN.join(state.replace(":", ": ", 1) for state in states) or UNKNOWN,
    }


def _clock_source(guest: QemuSandbox) -> str:
    try:
        return guest.agent.read_file(CLOCK_SOURCE).decode(errors="replace").strip()
    except GuestRefused:
        return UNKNOWN


def at_the_doorbell(guest: QemuSandbox) -> dict[str, Scalar]:
    """`doorbell_interrupts` of a guest that is or was armed: masked, or not masked."""
    return {"doorbell_interrupts": "masked" if guest.masked else "not masked"}


def of_booted(
    cache: Path,
    built_from: Mapping[str, Scalar],
    boot: Callable[[], QemuSandbox],
    has_doorbell: bool,
) -> Image:
    """The facts of a guest that `boot` makes, from the cache if one has been asked before.

    Raises what `boot` raises.
    """

    def fill(directory: Path) -> None:
        guest = boot()
        try:
            facts = observed(guest)
            if has_doorbell:
                guest.arm()
                facts |= at_the_doorbell(guest)
        finally:
            guest.destroy()
        (directory / FACTS).write_text(json.dumps(facts), encoding="utf-8")

    directory = entry(cache / "guests" / manifest.name_of(built_from), fill)
    text = (directory / FACTS).read_text(encoding="utf-8")
    facts = {**built_from, **json.loads(text)}
    return Image("booted guest", manifest.name_of(facts), facts)
