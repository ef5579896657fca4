"""Which kernel guests start with: COPPICE_KERNEL=slim|distribution|FILE, which `--kernel` sets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from harness.errors import UsageError
from harness.guest import kernel
from harness.guest.kernel import Kernel
from harness.guest.kernel_build import slim

VARIABLE, MODULES = "COPPICE_KERNEL", "COPPICE_KERNEL_MODULES"
DISTRIBUTION, SLIM = "distribution", "slim"


def named(environment: Mapping[str, str] = os.environ) -> str:
    """`distribution`, `slim`, or the path of a kernel."""
    return environment.get(VARIABLE) or DISTRIBUTION


def label(environment: Mapping[str, str] = os.environ) -> str:
    """The choice as records have it: of a file, its name."""
    return Path(named(environment)).name


def chosen(cache: Path, environment: Mapping[str, str] = os.environ) -> Kernel:
    """The kernel that guests start with.

    Raises ImageError (a file that is no kernel; no slim kernel was built), UsageError (modules for
    a kernel that brings its own), and what `kernel.from_distribution` raises.
    """
    choice, modules = named(environment), environment.get(MODULES)
    if choice in (DISTRIBUTION, SLIM) and modules:
        raise UsageError(
            f"{MODULES} is set, but {VARIABLE}={choice} needs no other modules than its own",
            hint=f"set {VARIABLE} to the kernel of these modules, or unset {MODULES}",
        )
    if choice == DISTRIBUTION:
        return kernel.from_distribution(cache)
    if choice == SLIM:
        found = slim.newest(cache)
        return Kernel(found.vmlinux, None, found.version)
    return kernel.from_path(Path(choice), Path(modules) if modules else None, cache)


def check(cache: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Raise what `chosen` would for a choice that cannot work; downloads nothing."""
    if named(environment) != DISTRIBUTION:
        chosen(cache, environment)
