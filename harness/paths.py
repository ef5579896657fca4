"""Locations of packaged data, and of what runs keep on this machine.

In a checkout, rigs, templates, published figures and patches are next to `harness/`; in a wheel
they are in `harness/data/`, with the same layout. Other modules take these locations from here.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = [
    "AGENT",
    "ARCHIVE",
    "BESIDE",
    "BUILT_FROM",
    "CHECKOUT",
    "CLAIMS",
    "CLOCKS",
    "COMPAT",
    "DATA",
    "ENVD",
    "ESSAYS",
    "EXIT_COST_PROGRAM",
    "FLOOR_PROGRAMS",
    "GUEST_PROGRAMS",
    "KERNEL_BUILD",
    "KSM_PROGRAM",
    "NETWORK_PROGRAMS",
    "OPENAPI",
    "PACKAGE",
    "PATCHES",
    "PUBLISHED",
    "PYTEST_INI",
    "PYTEST_PROCESS",
    "RECORD_SCHEMA",
    "RIGS",
    "SITE",
    "VMM_PROGRAMS",
    "cache_directory",
    "default_results",
    "failures_directory",
    "front_door",
    "gateway_directory",
    "runtime_directory",
    "state_directory",
    "unstored_directory",
]

PACKAGE = Path(__file__).resolve().parent
"""The directory of the package `harness`."""


def _checkout() -> Path | None:
    above = PACKAGE.parent
    return above if (above / "pyproject.toml").is_file() and (above / "rigs").is_dir() else None


CHECKOUT = _checkout()
"""The checkout that contains this package; None when installed from a wheel."""
DATA = CHECKOUT or PACKAGE / "data"
"""The directory that holds rigs/, site/, results/published/ and patches/."""
BUILT_FROM = PACKAGE / "built-from.json"
"""In an installed package: `{"commit", "dirty"}` of the checkout it was built from."""

RIGS = DATA / "rigs"
SITE = DATA / "site"
ESSAYS = SITE / "essays"
PUBLISHED = DATA / "results" / "published"
PATCHES = DATA / "patches"

AGENT = PACKAGE / "guest" / "agent"
"""C sources of the guest agent."""
GUEST_PROGRAMS = PACKAGE / "guest" / "programs"
KERNEL_BUILD = PACKAGE / "guest" / "kernel_build"
"""Configurations of guest kernels that are built here."""
KSM_PROGRAM = PACKAGE / "host" / "programs" / "mergeable.c"
EXIT_COST_PROGRAM = PACKAGE / "host" / "programs" / "exit_cost.c"
NETWORK_PROGRAMS = PACKAGE / "procedures" / "programs"
FLOOR_PROGRAMS = PACKAGE / "sandbox" / "kvm_floor" / "programs"
"""C sources of kvm-floor: its VMM, and the program that its guests run."""
VMM_PROGRAMS = PACKAGE / "sandbox" / "qemu" / "programs"
"""C sources of what confines a VMM, and of what forks it."""
ENVD = PACKAGE / "gateway" / "guest"
"""C sources of envd, and the code interpreter that runs with it."""
OPENAPI = PACKAGE / "gateway" / "control_plane" / "openapi.yaml"
COMPAT = PACKAGE / "gateway" / "compat"
"""Lock files of the SDKs that the gateway is tested with, and the probes that use them."""
PYTEST_INI = PACKAGE / "rig" / "pytest.ini"
"""How `coppice run` starts pytest, wherever the rigs come from."""
PYTEST_PROCESS = PACKAGE / "rig" / "pytest_process.py"
"""The program that it starts."""
RECORD_SCHEMA = PACKAGE / "measure" / "schema" / "run-1.json"
BESIDE = PACKAGE / "claims" / "beside.yaml"
CLAIMS = PACKAGE / "claims" / "claims.yaml"
CLOCKS = PACKAGE / "claims" / "clocks.yaml"


ARCHIVE = "archive"
"""The directory of superseded records, within that of records; in it is one for each machine."""


def front_door(command: str) -> str:
    """How the user runs a command of `coppice` here: by mise in a checkout."""
    return f"bin/mise run {command}" if CHECKOUT else f"coppice {command}"


def default_results() -> Path:
    """The default directory of run records for every command: `./results`."""
    return Path("results")


def runtime_directory() -> Path:
    """The parent of this user's run directories; its content does not survive a reboot."""
    named = os.environ.get("COPPICE_RUNTIME")
    if named:
        # Processes and mounts are found by this path, so it must not depend on the caller's cwd.
        return Path(named).resolve()
    for place in ("/run", "/var/run"):  # FreeBSD has only the second
        if os.geteuid() == 0 and os.access(place, os.W_OK):
            return Path(place, "coppice")
    user = os.environ.get("XDG_RUNTIME_DIR")
    return (
        Path(user) / "coppice" if user else Path(tempfile.gettempdir()) / f"coppice-{os.getuid()}"
    )


def cache_directory() -> Path:
    """The cache of images and checkpoints, kept between runs and across reboots."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("COPPICE_CACHE") or Path(base) / "coppice")


def state_directory() -> Path:
    """What outlives runs and is no cache: a gateway's state, and what explains failures."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(os.environ.get("COPPICE_STATE") or Path(base) / "coppice")


def gateway_directory() -> Path:
    """The usual directory of a gateway's persistent state; COPPICE_STATE changes it."""
    return state_directory() / "gateway"


def failures_directory() -> Path:
    """Where failed tests and rigs leave what explains them, a directory for each run."""
    return Path(os.environ.get("COPPICE_FAILURES") or state_directory() / "failures").absolute()


def unstored_directory() -> Path:
    """Where records are kept that could not be stored in the directory of results."""
    return (state_directory() / "unstored").absolute()
