"""bhyve where it cannot run: one clear refusal, with the exit code and the way out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.errors import Unsupported
from harness.host.run import open_run
from harness.sandbox import bhyve
from harness.sandbox.bhyve import BhyveSubstrate
from harness.sandbox.protocol import Tier, load

elsewhere = pytest.mark.skipif(sys.platform.startswith("freebsd"), reason="about other hosts")


def _program(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def freebsd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A host that looks like FreeBSD without anything; the folder is its whole PATH."""
    monkeypatch.setattr(sys, "platform", "freebsd15")
    monkeypatch.setattr(bhyve, "VMM", tmp_path / "vmmctl")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@elsewhere
@pytest.mark.parametrize("tier", list(Tier))
def test_the_substrate_itself_refuses_too(tier: Tier, tmp_path: Path) -> None:
    with open_run() as run, pytest.raises(Unsupported, match=f"bench:qemu-{tier} ") as refused:
        load("bhyve").prepare(run, tmp_path, tier)
    assert refused.value.exit_code == 69
    assert not list(tmp_path.iterdir())
    with pytest.raises(Unsupported):
        BhyveSubstrate().memory_per_sandbox(tier)


def test_a_bare_freebsd_is_told_what_to_load_and_build(freebsd: Path) -> None:
    needs = {need.what: need for need in BhyveSubstrate().requirements()}
    assert {what for what, need in needs.items() if need.satisfied} == set()
    assert needs["vmm"].remedy == "kldload vmm"
    assert "BHYVE_SNAPSHOT" in (needs["BHYVE_SNAPSHOT, for the durable tiers"].remedy or "")


def test_a_bhyvectl_without_snapshots_is_told_from_one_with(freebsd: Path) -> None:
    _program(freebsd, "bhyve", "exit 0")
    _program(freebsd, "kldstat", "exit 0")
    what = "BHYVE_SNAPSHOT, for the durable tiers"
    _program(freebsd, "bhyvectl", "echo 'Usage: bhyvectl --vm=<vmname> [--destroy]' >&2; exit 1")
    assert not {need.what: need.satisfied for need in BhyveSubstrate().requirements()}[what]
    _program(freebsd, "bhyvectl", "echo '[--destroy] [--suspend=<filename>]' >&2; exit 1")
    needs = {need.what: need.satisfied for need in BhyveSubstrate().requirements()}
    assert needs == {"bhyve": True, "bhyvectl": True, "vmm": True, what: True, "its driver": False}


def test_a_complete_freebsd_is_told_that_the_driver_is_not_there(freebsd: Path) -> None:
    for name in ("bhyve", "kldstat"):
        _program(freebsd, name, "exit 0")
    _program(freebsd, "bhyvectl", "echo --suspend")
    with pytest.raises(Unsupported, match="driver; which is not written yet"):
        BhyveSubstrate().memory_per_sandbox(Tier.FULL)
