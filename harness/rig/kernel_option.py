"""`coppice run --kernel`: the kernel that guests start with, or two to compare.

It sets COPPICE_KERNEL, so that the process that measures, another host and the record have it too.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import UsageError
from harness.guest import kernel_choice
from harness.guest.kernel_choice import DISTRIBUTION, SLIM, VARIABLE
from harness.paths import cache_directory
from harness.rig.discovery import substrates_of
from harness.rig.info import RigInfo
from harness.sandbox.qemu import hardware_choice, kernel_arguments

INITRAMFS = "COPPICE_INITRAMFS"
"""With it, COPPICE_KERNEL is a path on the host of bhyve's guests."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kernel", metavar="KERNEL[,KERNEL]",
        help=f"the kernel of qemu's guests: {DISTRIBUTION} (the default), {SLIM} (coppice kernel "
        "build makes it) or a file; two are run in alternation and compared, like --interleave",
    )  # fmt: skip


def take(options: argparse.Namespace, rigs: Sequence[RigInfo]) -> None:
    """Carry out --kernel: one kernel goes into the environment, two become --interleave.

    Raises UsageError, and what is wrong with a kernel, before anything is measured.
    """
    if options.kernel is not None:
        named = [_named(text) for text in options.kernel.split(",")]
        suitable = {one.name for info in rigs for one in substrates_of(info) if takes_choice(one)}
        suitable &= set(options.substrate) or suitable
        if rigs and not suitable and any(info.wants for info in rigs):
            raise UsageError(
                "--kernel: none of the chosen substrates starts guests with a kernel of choice",
                hint="coppice run RIG --substrate qemu --kernel ...",
            )
        if len(named) == 1:
            os.environ[VARIABLE] = named[0]
        elif len(named) > 2 or named[0] == named[1]:
            raise UsageError(f"--kernel {options.kernel}: compares two kernels that differ")
        elif options.interleave:
            raise UsageError("--kernel with two kernels is an --interleave of its own")
        else:
            options.interleave = [f"{VARIABLE}={one}" for one in named]
            options.substrate = sorted(suitable)
    check(os.environ)


def check(environment: Mapping[str, str]) -> None:
    """Raise an error if the kernel, its arguments or the virtual hardware that an environment names
    cannot work."""
    hardware_choice.check(environment)
    kernel_arguments.check(environment)
    if not environment.get(INITRAMFS):
        kernel_choice.check(cache_directory(), environment)


def takes_choice(substrate: object) -> bool:
    """Whether a substrate's guests start with the kernel of COPPICE_KERNEL."""
    return bool(getattr(substrate, "kernel_by_choice", False))


def _named(text: str) -> str:
    if not text:
        raise UsageError("--kernel: a kernel's name is empty")
    return text if text in (DISTRIBUTION, SLIM) else str(Path(text).absolute())
