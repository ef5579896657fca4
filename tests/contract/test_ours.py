"""Every built-in substrate passes the contract that substrates of other packages must pass."""

from __future__ import annotations

import os

import pytest

from harness.rig.discovery import OURS
from harness.sandbox.protocol import registered
from harness.testing import SubstrateContract

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="these substrates need root")
OWN_NAMES = {"process": (), "gvisor": (), "bwrap": ("hostname",), "docker": ("hostname",)}
"""Reference substrates that share more with their host, or with their checkpoint."""
UNDER_EACH = ("qemu",)
"""Substrates that pass it under each accelerator."""
SLOW = {"vm": "a boot takes most of a minute under emulation; set COPPICE_SLOW=1 to run it"}


def contract(name: str) -> type[SubstrateContract]:
    """The contract of a substrate, as a class that pytest collects."""
    attributes = {"substrate": name, "own_names": OWN_NAMES.get(name, ("hostname", "machine_id"))}
    made = type(f"Test_{name}", (SubstrateContract,), attributes)
    if name in UNDER_EACH:
        made = pytest.mark.usefixtures("accelerator")(made)
    if name in SLOW and not os.environ.get("COPPICE_SLOW"):
        made = pytest.mark.skip(reason=SLOW[name])(made)
    return made


for name in registered(OURS):
    globals()[f"Test_{name}"] = contract(name)
