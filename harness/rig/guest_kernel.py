"""Which of a record's series are of guests with another kernel than the distribution's.

Such a series has a dimension that says so: it never stands for the series of the usual kernel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from harness.errors import CoppiceError
from harness.measure.conditions import GUEST_KERNEL
from harness.measure.record import Facts, Image, Series
from harness.rig.kernel_option import takes_choice
from harness.sandbox.protocol import load

OF_THE_HOST = ("mechanism",)
"""Dimensions of series that no guest takes part in."""
MICROVM = "microvm"
"""The path of packets that leads through a guest."""


def named(images: Sequence[Image]) -> str | None:
    """The choice that guests of a record were started with; None for the usual kernel."""
    for image in images:
        choice = image.built_from.get("kernel_choice")
        if choice not in (None, "distribution"):
            return str(choice)
    return None


def marked(series: Series, choice: str | None) -> Series:
    """The series, with the dimension if its guests had a kernel of choice."""
    if choice is None or not _of_guests(series.dimensions):
        return series
    dimensions = {**series.dimensions, GUEST_KERNEL: choice}
    return dataclasses.replace(series, dimensions=dimensions)


def _of_guests(dimensions: Facts) -> bool:
    if "substrate" in dimensions:
        try:
            return takes_choice(load(str(dimensions["substrate"])))
        except CoppiceError:  # the name of something else, such as a service
            return False
    if "path" in dimensions:
        return bool(dimensions["path"] == MICROVM)
    return not any(name in dimensions for name in OF_THE_HOST)
