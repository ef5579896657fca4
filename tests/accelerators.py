"""What runs the guests of a test: emulation, and KVM on a host that can.

A test that uses the fixture `accelerator` runs once under each. Under KVM it has the marker `kvm`,
so that `pytest -m kvm` selects what needs a guest under KVM; where no guest runs under it, those
tests are skipped with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.guest.image import build
from harness.host.run import Run
from harness.paths import cache_directory
from harness.sandbox.qemu.accelerator import choose

VARIABLE = "COPPICE_ACCELERATOR"
BOTH = ["tcg", pytest.param("kvm", marks=pytest.mark.kvm)]
"""For a fixture whose tests run under each."""


@contextmanager
def guests_under(name: str, run: Run) -> Iterator[None]:
    """Every guest that starts meanwhile, from a child process too, runs under this accelerator.

    Skips the test where the user, or a trial, has found that KVM runs no guest.
    """
    chosen = choose(run, cache_directory(), build(cache_directory())) if name == "kvm" else None
    if chosen and chosen.name != "kvm":
        pytest.skip(f"needs a guest under KVM: {chosen.reason}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, name)
        yield
