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
from harness.measure.record import Facts, Machine, Series
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
    what was measured counts.
    """
    if NAME not in (host.accelerator, *accelerators.values()):
        return host
    found: Facts = measured()
    why = host.function_only
    if why is None and any(_has_kernel(one, host.accelerator, accelerators) for one in series):
        why = exit_cost.kernel_mode_emulated(measured())
    return dataclasses.replace(host, kvm=found, function_only=why)


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
