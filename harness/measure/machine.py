"""The facts about a machine: its description, and its state before and after a run.

Tables define every fact with its type, unit and reader for each operating system. A fact that is
not available is None, and null in the record; it is never guessed, and not the same as 0.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import Unsupported
from harness.measure import facts_freebsd as freebsd
from harness.measure import facts_linux as linux
from harness.measure import record
from harness.measure.record import Facts, Scalar
from harness.measure.system import System

FUNCTION_ONLY = "COPPICE_FUNCTION_ONLY"
"""Marks all timings of this machine as invalid; the value is the reason (an emulated CPU)."""

FactReader = Callable[[System], Scalar]
FactKind = Literal["identity", "gauge", "counter", "setting"]


@dataclass(frozen=True)
class Fact:
    """One fact. A gauge goes up and down, a counter only up; a setting should not change.

    `unit` is s, bytes, 1 (a count), or empty for text and booleans. `linux` and `freebsd` read the
    fact; None where that system does not have it.
    """

    name: str
    type: type[str] | type[int] | type[float] | type[bool]
    unit: Literal["s", "bytes", "1", ""]
    kind: FactKind
    linux: FactReader | None
    freebsd: FactReader | None

    def collect(self, system: System) -> Scalar:
        """The current value, or None. Unsupported on systems other than Linux and FreeBSD."""
        readers = {"linux": self.linux, "freebsd": self.freebsd}
        if system.platform not in readers:
            raise Unsupported(
                f"machine facts are not supported on {system.platform}",
                hint="run it on Linux or FreeBSD",
            )
        reader = readers[system.platform]
        if reader is None:
            return None
        try:
            value = reader(system)
        except (ValueError, IndexError):
            return None  # in a format that the reader does not know
        if value is not None and type(value) is not self.type:
            raise TypeError(f"{self.name} is {value!r}, not of type {self.type.__name__}")
        return value


DESCRIPTION = (
    Fact("cpu", str, "", "identity", linux.cpu, freebsd.cpu),
    Fact("microcode", str, "", "identity", linux.microcode, None),
    Fact("cores", int, "1", "identity", linux.cores, freebsd.cores),
    Fact("memory_bytes", int, "bytes", "identity", linux.memory, freebsd.memory),
    Fact("storage", str, "", "identity", linux.storage, freebsd.storage),
    Fact("os", str, "", "identity", linux.os_name, freebsd.os_name),
    Fact("kernel", str, "", "identity", linux.kernel, freebsd.kernel),
    Fact("virtualisation", str, "", "identity", linux.virtualisation, freebsd.virtualisation),
)

STATE = (
    Fact("load_1m", float, "1", "gauge", linux.load_1m, freebsd.load_1m),
    Fact("load_5m", float, "1", "gauge", linux.load_5m, freebsd.load_5m),
    Fact("load_15m", float, "1", "gauge", linux.load_15m, freebsd.load_15m),
    Fact("memory_available_bytes", int, "bytes", "gauge",
         linux.memory_available, freebsd.memory_available),
    Fact("memory_free_bytes", int, "bytes", "gauge", linux.memory_free, freebsd.memory_free),
    Fact("memory_limit_bytes", int, "bytes", "setting", linux.memory_limit, None),
    Fact("cpu_limit", float, "1", "setting", linux.cpu_limit, None),
    Fact("pids_limit", int, "1", "setting", linux.pids_limit, None),
    Fact("memory_stall_s", float, "s", "counter", linux.memory_stall, None),
    Fact("swap_in_bytes", int, "bytes", "counter", linux.swap_in, freebsd.swap_in),
    Fact("swap_out_bytes", int, "bytes", "counter", linux.swap_out, freebsd.swap_out),
    Fact("oom_kills", int, "1", "counter", linux.oom_kills, None),
    Fact("throttle_events", int, "1", "counter", linux.throttle_events, None),
    Fact("cpu_busy_s", float, "s", "counter", linux.cpu_busy, freebsd.cpu_busy),
    Fact("cpu_idle_s", float, "s", "counter", linux.cpu_idle, freebsd.cpu_idle),
    Fact("cpu_steal_s", float, "s", "counter", linux.cpu_steal, None),
    Fact("cpu_interrupts_s", float, "s", "counter", linux.cpu_interrupts, freebsd.cpu_interrupts),
    Fact("cpu_kernel_threads_s", float, "s", "gauge", linux.cpu_kernel_threads, None),
    Fact("kernel_warnings", int, "1", "gauge", linux.kernel_warnings, None),
    Fact("kernel_newest_warning", int, "1", "counter", linux.kernel_newest_warning, None),
    Fact("samepage_merging", str, "", "setting", linux.merging, None),
    Fact("huge_pages", str, "", "setting", linux.huge_pages, freebsd.huge_pages),
    Fact("governor", str, "", "setting", linux.governor, None),
    Fact("boost", bool, "", "setting", linux.boost, None),
    Fact("uptime_s", float, "s", "counter", linux.uptime, freebsd.uptime),
)  # fmt: skip


def facts_of(table: tuple[Fact, ...], system: System) -> dict[str, Scalar]:
    """Every fact of a table, in its order."""
    return {fact.name: fact.collect(system) for fact in table}


def state(system: System | None = None) -> Facts:
    """The machine's current state. Takes milliseconds, so it must not be on a timed path."""
    return facts_of(STATE, system or System())


def describe(
    accelerator: str | None, cache: Path | None = None, system: System | None = None
) -> record.Machine:
    """The description of this machine. `accelerator` ran the guests; `cache` holds checkpoints.

    `before` and `after` are left empty; the caller fills in `state()` with `dataclasses.replace`.
    The reason in COPPICE_FUNCTION_ONLY becomes `function_only`. Raises Unsupported where the number
    of CPUs or the memory size is not available.
    """
    if system is None:
        system = System(cache=cache.resolve()) if cache else System()
    found = facts_of(DESCRIPTION, system)
    cores, memory = found["cores"], found["memory_bytes"]
    if not isinstance(cores, int) or not isinstance(memory, int):
        raise Unsupported(
            "cannot read this machine's CPU count and memory size: are /proc and /sys mounted?",
            hint="mount -t proc proc /proc; mount -t sysfs sysfs /sys",
        )
    text = {name: str(value) if value else "unknown" for name, value in found.items()}
    return record.Machine(
        id=slug(text["cpu"], cores, memory, secret(system)),
        name=name(text["cpu"], cores, memory, text["virtualisation"]),
        class_=class_of(text["virtualisation"]),
        cpu=text["cpu"],
        microcode=text["microcode"] if found["microcode"] else None,
        cores=cores,
        memory_bytes=memory,
        storage=text["storage"],
        os=text["os"],
        kernel=text["kernel"],
        virtualisation=text["virtualisation"],
        accelerator=accelerator,
        function_only=os.environ.get(FUNCTION_ONLY, "").strip() or None,
    )


def class_of(virtualisation: str) -> Literal["bare-metal", "virtual-machine", "emulated"]:
    """The class of a machine by its hypervisor; an unknown one counts as a hypervisor."""
    if virtualisation == "none":
        return "bare-metal"
    return "emulated" if virtualisation.endswith("-tcg") else "virtual-machine"


def secret(system: System) -> str:
    """A private identifier of this machine, for `slug` only, which stores a keyed hash of it."""
    found = {"linux": linux.secret_id, "freebsd": freebsd.secret_id}[system.platform](system)
    return found or ""


def _short(cpu: str) -> str:
    """A CPU's name without the vendor's additions."""
    bare = re.sub(r"\((?:R|TM|C)\)|\bCPU\b|\b\d+-Core\b|\bProcessor\b|@.*|\bwith .*", " ", cpu)
    return " ".join(bare.split())


def _gib(memory_bytes: int) -> int:
    # Firmware and kernel reserve some memory; rounding gives the installed or assigned size.
    return max(1, round(memory_bytes / 2**30))


def slug(cpu: str, cores: int, memory_bytes: int, private: str) -> str:
    """A stable directory name: "amd-epyc-2c-24g-1f00ba". The last six digits are a keyed hash of
    `private`."""
    model = re.sub(r"[^a-z0-9]+", "-", _short(cpu).lower()).strip("-")[:40].strip("-")
    mark = hmac.digest(b"coppice machine", private.encode(), hashlib.sha256).hex()[:6]
    return f"{model or 'unknown'}-{cores}c-{_gib(memory_bytes)}g-{mark}"


def name(cpu: str, cores: int, memory_bytes: int, virtualisation: str) -> str:
    """A readable name: "AMD EPYC, 2 cores, 24 GiB, under kvm"."""
    count = "1 core" if cores == 1 else f"{cores} cores"
    where = {"none": ", bare metal", "unknown": ""}.get(virtualisation, f", under {virtualisation}")
    return f"{_short(cpu)}, {count}, {_gib(memory_bytes)} GiB{where}"


def settings() -> Mapping[str, Fact]:
    """The facts of a machine's state that should not change during a run, by name."""
    return {fact.name: fact for fact in STATE if fact.kind == "setting"}
