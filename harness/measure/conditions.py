"""What a figure must be read with: what ran the guests, where it is possible, what was rehearsed.

New records carry this with each series. For older ones it is derived, by the same rules, from what
they carry: the accelerator of their machine, and the dimensions of the series.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Value = str | int | float | bool | None

TCG, NONE = "tcg", "none"
"""The accelerators of emulated guests, and of sandboxes that have no kernel of their own."""
EMULATED = "emulated"
REHEARSED, NOT_REHEARSED = "rehearsed", "not rehearsed"
NOT_RECORDED = "accelerator not recorded"

SYSTEM = "system"
"""The dimension that names the system behind an endpoint, which a record knows only by its address
and API: no other part of the record names it."""

GUEST_KERNEL = "guest_kernel"
"""The dimension of a series whose guests had another kernel than the distribution's: `slim`, or the
name of a file. Without it the kernel was the distribution's."""

_OWN_KERNEL = ("qemu", "bhyve", "vm")
_SHARED_KERNEL = ("noop", "process", "bwrap", "docker", "gvisor", "oci", "jail")
"""Substrates by the first part of their names; those of other packages are in neither list."""
_NO_PROGRAMS = ("noop", "kvm-floor")
"""Substrates whose sandboxes run no programs."""
_PROGRAMS = (
    "first-exec",
    "first-touch",
    "first-command",
    "first-command-alone",
    "first-run-code",
    "first-run-code-alone",
    "usable",
)
"""Metrics whose clock stops only after a program has run."""

_READINGS = ("host-change", "window-moved")
"""Metrics that rigs read several times from one fleet at rest."""


class Reach(enum.StrEnum):
    """Where a figure is possible at all, as pages show it."""

    ANYWHERE = "any host"
    EMULATION = "possible under TCG only"
    FUNCTION = "function only"


@dataclass(frozen=True)
class Conditions:
    """`accelerator` is kvm, tcg, vmm or none; None where no record states it.

    `rehearsed`: whether the program that the figure waits for had run before the sandbox was handed
    out; None where there is no such program, or where only the far end knows.
    """

    accelerator: str | None
    reach: Reach
    rehearsed: bool | None = None
    readings: bool = False
    """Whether the samples are repeated readings of one meter while nothing changes: how they differ
    says something of the meter, and nothing of another run."""

    @property
    def emulated(self) -> bool:
        return self.accelerator == TCG

    @property
    def repeatable(self) -> bool:
        """Whether a host with hardware virtualisation can repeat the figure."""
        return self.reach is Reach.ANYWHERE

    @property
    def notes(self) -> Sequence[str]:
        """In plain text, what stands next to the figure; nothing for what every host repeats."""
        found = [EMULATED] if self.emulated else []
        found += [NOT_RECORDED] if self.accelerator is None else []
        found += [str(self.reach)] if self.reach is not Reach.ANYWHERE else []
        if self.rehearsed is not None:
            found.append(REHEARSED if self.rehearsed else NOT_REHEARSED)
        return found


class _Machine(Protocol):
    @property
    def accelerator(self) -> str | None: ...

    @property
    def class_(self) -> str: ...

    @property
    def function_only(self) -> str | None: ...


class _Series(Protocol):
    @property
    def metric(self) -> str: ...

    @property
    def dimensions(self) -> Mapping[str, Value]: ...


def derived(series: _Series, machine: _Machine) -> Conditions:
    """The conditions of a series that does not carry them."""
    ran_by = accelerator(series.dimensions, machine.accelerator)
    return Conditions(
        ran_by,
        _reach(series.dimensions, ran_by, machine),
        rehearsed(series.metric, series.dimensions),
        is_readings(series.metric),
    )


def accelerator(dimensions: Mapping[str, Value], of_machine: str | None) -> str | None:
    """What ran the guests of a series; `of_machine` is what the record's machine states."""
    if "accelerator" in dimensions:
        own = dimensions["accelerator"]
        return NONE if own is None else str(own)
    if SYSTEM in dimensions:
        return None  # the far end's, which this machine does not know
    substrate, path = dimensions.get("substrate"), dimensions.get("path")
    if substrate is not None:
        shared = str(substrate).partition("-")[0] in _SHARED_KERNEL
        return NONE if shared else of_machine
    if path == "microvm" or "sdk" in dimensions:
        return of_machine
    return NONE


def has_guests(dimensions: Mapping[str, Value]) -> bool:
    """Whether the sandboxes of a series are guests of a VMM, with a kernel of their own."""
    return dimensions.get("substrate") in _OWN_KERNEL


def _reach(dimensions: Mapping[str, Value], ran_by: str | None, machine: _Machine) -> Reach:
    if machine.function_only or machine.class_ == "emulated":
        return Reach.FUNCTION
    # A fork does not copy the state that a guest has in the host's kernel under KVM.
    forked = "forked" in (dimensions.get("sharing"), dimensions.get("vmm"))
    return Reach.EMULATION if forked and ran_by == TCG else Reach.ANYWHERE


def is_readings(metric: str) -> bool:
    """Whether the samples of a metric are repeated readings, for records that do not state it."""
    return metric in _READINGS


def rehearsed(metric: str, dimensions: Mapping[str, Value]) -> bool | None:
    """Whether the program of a series had run before its sandboxes were handed out.

    A series may state it. Otherwise it had, wherever a checkpoint or a pool prepares sandboxes:
    both run the very program that the clock waits for. Tier `full` makes a sandbox on request.
    """
    stated = dimensions.get("rehearsed")
    if stated is not None:
        return stated == "yes"
    if metric not in _PROGRAMS or dimensions.get("substrate") in _NO_PROGRAMS:
        return None
    if SYSTEM in dimensions:
        return None
    return dimensions.get("tier") != "full"
