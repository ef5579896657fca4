"""What the environment asks of the virtual hardware is refused before anything is run."""

from __future__ import annotations

import pytest

from harness.cli import main
from harness.errors import UsageError
from harness.sandbox.qemu import hardware_choice


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("COPPICE_ACCELERATOR", "KVM", "must be kvm or tcg"),
        ("COPPICE_MACHINE", "q35", r"must be microvm\[,NAME=VALUE\]"),
        ("COPPICE_MACHINE", "microvm2", "must be microvm"),
        ("COPPICE_MACHINE", " ", "must be microvm"),
        ("COPPICE_MACHINE", "microvm,acpi", "must be microvm"),
        ("COPPICE_MACHINE", "microvm,accel=kvm", "has accel, which is set for each guest"),
        ("COPPICE_MACHINE", "microvm,pit=on,memory-backend=x", "has memory-backend, which"),
        ("COPPICE_CPU", "qemu64 -lm", "must be MODEL"),
        ("COPPICE_CPU", "\u00e9", "must be MODEL"),
    ],
)
def test_what_no_qemu_takes(
    name: str,
    text: str,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UsageError, match=why):
        hardware_choice.check({name: text})
    monkeypatch.setenv(name, text)
    assert main(["run", "cold-start", "--substrate", "qemu"]) == 64
    told = capsys.readouterr().err.splitlines()
    assert len(told) <= 2 and name in told[0]


def test_what_is_empty_or_usable_is_taken() -> None:
    names = (hardware_choice.ACCELERATOR, hardware_choice.MACHINE, "COPPICE_CPU")
    hardware_choice.check(dict.fromkeys(names, ""))
    hardware_choice.check({})
    values = ("tcg", "microvm,acpi=off,pit=on", "Nehalem,-spec-ctrl")
    hardware_choice.check(dict(zip(names, values, strict=True)))
