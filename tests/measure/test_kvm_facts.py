"""What a record says of KVM, and when its times mean nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.host.exit_cost import Fact
from harness.measure import record, record_differences
from harness.measure.record import Machine, Series, Validity
from harness.rig import kvm_facts
from tests.measure.factory import run_record, series

EMULATED: Mapping[str, Fact] = {
    "exit_io_s": 1e-5, "exit_mmio_s": None, "kernel_mode_slowdown": 2000.0, "module": "kvm_pvm",
    "nested": True, "reason": None,
}  # fmt: skip
NATIVE = {**EMULATED, "kernel_mode_slowdown": 1.1}


def described(
    monkeypatch: pytest.MonkeyPatch,
    found: Mapping[str, Fact],
    substrates: Mapping[str, str | None],
    host: Machine | None = None,
    accelerator: str | None = "kvm",
) -> Machine:
    """The machine of a record with a series of each substrate, each with its accelerator."""
    monkeypatch.setattr(kvm_facts, "measured", lambda: found)
    taken: list[Series] = [
        dataclasses.replace(series(), dimensions={"substrate": name, "accelerator": ran_by})
        for name, ran_by in substrates.items()
    ]
    machine = dataclasses.replace(host or run_record().machine, accelerator=accelerator)
    return kvm_facts.described(machine, taken, dict(substrates))


def test_guests_with_kernels_that_are_emulated_prove_function_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = described(monkeypatch, EMULATED, {"qemu": "kvm"})
    assert machine.function_only and "kvm_pvm" in machine.function_only
    read = record.load(record.write(run_record(machine=machine), tmp_path)).machine
    assert read.kvm == EMULATED
    assert read.function_only == machine.function_only


def test_where_kernel_mode_is_native_times_count(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = described(monkeypatch, NATIVE, {"qemu": "kvm"})
    assert machine.kvm == NATIVE and machine.function_only is None


def test_what_was_not_measured_marks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = {**EMULATED, "kernel_mode_slowdown": None, "reason": "KVM_CREATE_VM: refused"}
    machine = described(monkeypatch, unknown, {"qemu": "kvm"})
    assert machine.kvm == unknown and machine.function_only is None


@pytest.mark.parametrize("name", ["oci-raw", "noop"])
def test_sandboxes_without_kernels_of_their_own_keep_their_times(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert described(monkeypatch, EMULATED, {name: "kvm"}).function_only is None


def test_without_kvm_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = described(monkeypatch, EMULATED, {"qemu": "tcg"}, accelerator="tcg")
    assert machine.kvm is None and machine.function_only is None
    assert "kvm" not in run_record(machine=machine).to_json()["machine"]


def test_a_reason_that_the_user_gave_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    host = dataclasses.replace(run_record().machine, function_only="by hand")
    assert described(monkeypatch, EMULATED, {"qemu": "kvm"}, host).function_only == "by hand"


def test_of_several_substrates_only_those_with_kernels_prove_function_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran_by = {"qemu": "kvm", "kvm-floor": "kvm", "oci-raw": None}
    machine = described(monkeypatch, EMULATED, ran_by)
    assert machine.function_only is None and machine.kvm
    assert "kvm_pvm" in str(machine.kvm[record.FUNCTION_ONLY])
    made = []
    for name, accelerator in ran_by.items():
        one = dataclasses.replace(
            series(), dimensions={"substrate": name, "accelerator": accelerator}
        )
        stated = dataclasses.replace(one, conditions=record.conditions_of(one, machine))
        made.append(kvm_facts.marked(stated, machine, ran_by))
    path = record.write(
        run_record(machine=machine, series=tuple(made), validity=Validity("valid")), tmp_path
    )
    read = record.load(path)
    why = {
        str(one.dimensions["substrate"]): record.function_only(one, read.machine)
        for one in read.series
    }
    assert why == {"qemu": machine.kvm[record.FUNCTION_ONLY], "kvm-floor": None, "oci-raw": None}
    doubted = [
        one.status for one in record_differences.doubts_of((read, one) for one in read.series)
    ]
    assert doubted == ["function only"], "of the one record"
