"""KVM is believed only after a guest has answered under it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.guest.image import GuestImage
from harness.host.run import Run
from harness.sandbox.qemu import accelerator
from harness.sandbox.qemu.accelerator import Accelerator, choose

IMAGE = GuestImage(Path("kernel"), Path("initramfs"), "0" * 64, {})


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COPPICE_ACCELERATOR", raising=False)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[GuestImage]:
    """The images that were tried, under a device that opens and a trial that succeeds (a fake)."""
    tried: list[GuestImage] = []

    def trial(run: Run, image: GuestImage) -> Accelerator:
        tried.append(image)
        return Accelerator("kvm", "the trial said so")

    (tmp_path / "kvm").touch()
    monkeypatch.setattr(accelerator, "KVM", tmp_path / "kvm")
    monkeypatch.setattr(accelerator, "_try_kvm", trial)
    return tried


def test_without_the_device_guests_are_emulated(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "KVM", tmp_path / "none")
    chosen = choose(run, tmp_path, IMAGE)
    assert chosen == Accelerator("tcg", f"{tmp_path / 'none'} cannot be opened")
    assert not (tmp_path / "accelerator").exists()  # looked at anew the next time


@pytest.mark.parametrize("name", ["tcg", "kvm"])
def test_a_named_accelerator_is_taken_untried(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: list[GuestImage], name: str
) -> None:
    monkeypatch.setenv("COPPICE_ACCELERATOR", name)
    assert choose(run, tmp_path, IMAGE) == Accelerator(name, "named in COPPICE_ACCELERATOR")
    assert trials == []


def test_a_named_accelerator_that_is_none_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPPICE_ACCELERATOR", "TCG")
    with pytest.raises(UsageError, match="kvm or tcg"):
        choose(run, tmp_path, IMAGE)


def test_a_trial_is_made_once_and_its_answer_kept(
    run: Run, tmp_path: Path, trials: list[GuestImage]
) -> None:
    first, second = choose(run, tmp_path, IMAGE), choose(run, tmp_path, IMAGE)
    assert first == second == Accelerator("kvm", "the trial said so")
    assert len(trials) == 1
    choose(run, tmp_path, GuestImage(Path("kernel"), Path("initramfs"), "1" * 64, {}))
    assert len(trials) == 2  # another image is another question


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "kvm"}'])
def test_a_kept_answer_that_cannot_be_read_is_made_anew(
    run: Run, tmp_path: Path, trials: list[GuestImage], content: str
) -> None:
    choose(run, tmp_path, IMAGE)
    (kept,) = (tmp_path / "accelerator").iterdir()
    kept.write_text(content)
    assert choose(run, tmp_path, IMAGE).name == "kvm"
    assert len(trials) == 2
    assert json.loads(kept.read_text())["name"] == "kvm"
