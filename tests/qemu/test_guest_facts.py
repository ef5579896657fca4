"""What guests say of themselves: in a checkpoint's manifest, and on records of guests that boot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.host.run import Run
from harness.paths import cache_directory
from harness.sandbox.manifest import NAME
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import QemuSubstrate
from harness.sandbox.qemu.guest_facts import UNKNOWN
from harness.sandbox.qemu.kernel_arguments import EXTRA
from harness.sandbox.qemu.sandbox import QemuSandbox
from harness.sandbox.qemu.substrate import QemuTemplate

MELTDOWN = "/sys/devices/system/cpu/vulnerabilities/meltdown"


def test_a_checkpoints_manifest_has_them(guest: QemuSandbox, template: QemuTemplate) -> None:
    sealed = template.checkpoint
    assert sealed
    facts = sealed.as_record().built_from
    assert facts["clock_source"] == ("tsc" if template.accelerator == "tcg" else "kvm-clock")
    assert facts["doorbell_interrupts"] == "masked"
    inside = guest.agent.read_file(MELTDOWN).decode().strip()
    assert f"meltdown: {inside}" in str(facts["mitigations"]).split(" | ")
    written = json.loads((sealed.directory / NAME).read_text(encoding="utf-8"))
    assert written["observed"].keys().isdisjoint(written["built_from"])


def test_a_record_of_guests_that_boot_has_them(
    run: Run, substrate: QemuSubstrate, template: QemuTemplate
) -> None:
    prepared = substrate.prepare(run, cache_directory(), Tier.FULL)
    (booted,) = (image for image in prepared.images if image.name == "booted guest")
    sealed = template.checkpoint
    assert sealed and prepared.checkpoint is None
    for fact, value in sealed.observed.items():
        assert booted.built_from[fact] == value != UNKNOWN, fact
    assert booted.built_from["kernel_arguments"] == sealed.built_from["kernel_arguments"]
    again = substrate.prepare(run, cache_directory(), Tier.FULL)
    assert booted in again.images


def test_a_guest_that_cannot_mask_its_interrupts_says_so(
    run: Run,
    substrate: QemuSubstrate,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """A kernel that lends its local APIC to no process, as one with x2APIC cannot."""
    monkeypatch.setenv(EXTRA, "iomem=strict")
    for kept in ("kernels", "images", "accelerators", "programs"):
        (tmp_path / kept).symlink_to(cache_directory() / kept)
    prepared = substrate.prepare(run, tmp_path, Tier.FULL)
    (booted,) = (image for image in prepared.images if image.name == "booted guest")
    assert booted.built_from["doorbell_interrupts"] == "not masked"
    assert str(booted.built_from["kernel_arguments"]).endswith(" iomem=strict")
    assert "waits at its doorbell with interrupts on" in caplog.text
