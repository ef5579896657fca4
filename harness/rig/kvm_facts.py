"""What a record says of KVM: its cost on this host, and whether times under it mean anything.

It is measured once in a process, after the samples: while no clock runs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping

from harness.errors import PluginError, UsageError
from harness.host import exit_cost
from harness.host.exit_cost import Fact
from harness.measure import conditions
from harness.measure.conditions import Reach
from harness.measure.record import FUNCTION_ONLY, Facts, Machine, Series
from harness.paths import cache_directory
from harness.sandbox import protocol

NAME = "kvm"


@functools.cache
def measured() -> Mapping[str, Fact]:
    """What KVM costs on this host."""
    return exit_cost.facts(cache_directory())


def described(
    host: Machine, series: Iterable[Series], accelerators: Mapping[str, str | None]
) -> Machine:
    """The machine of a record with what KVM costs on it, where KVM ran a guest of these series.

    `accelerators` are those of single substrates by name, where a rig measures several. Where
    guests with kernels of their own ran under a KVM that emulates kernels, only the function of
    what was measured counts: of the whole record where all series are of such guests, else of
    those series (`marked`).
    """
    if NAME not in (host.accelerator, *accelerators.values()):
        return host
    found: Facts = measured()
    why = host.function_only
    with_kernel = [_has_kernel(one, host.accelerator, accelerators) for one in series]
    if why is None and any(with_kernel):
        why = exit_cost.kernel_mode_emulated(measured())
        if why and not all(with_kernel):
            return dataclasses.replace(host, kvm={**found, FUNCTION_ONLY: why})
    return dataclasses.replace(host, kvm=found, function_only=why)


def marked(series: Series, host: Machine, accelerators: Mapping[str, str | None]) -> Series:
    """A series with its conditions, which say so where its guests prove function alone, and
    `described` has said so of some."""
    some = FUNCTION_ONLY in (host.kvm or {})
    if not some or not series.conditions or not _has_kernel(series, host.accelerator, accelerators):
        return series
    stated = dataclasses.replace(series.conditions, reach=Reach.FUNCTION)
    return dataclasses.replace(series, conditions=stated)


def _has_kernel(
    series: Series, accelerator: str | None, accelerators: Mapping[str, str | None]
) -> bool:
    """Whether a series is of guests under KVM that run kernels of their own."""
    named = series.dimensions.get("substrate")
    ran_by = accelerators.get(str(named), accelerator)
    if conditions.accelerator(series.dimensions, ran_by) != NAME:
        return False
    try:
        return named is None or protocol.load(str(named)).own_kernel
    except (UsageError, PluginError):  # no substrate of its name: of the gateway, say
        return True
