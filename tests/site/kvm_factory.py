"""Made-up records of a machine with KVM: its floor, guests with a slim kernel, function only."""

from __future__ import annotations

import dataclasses

from harness.measure.conditions import Reach, derived
from harness.measure.record import FUNCTION_ONLY, Facts, RunRecord, Scalar, Series
from tests.site import factory

FACTS: Facts = {
    "exit_io_s": 2.4e-05,
    "exit_mmio_s": 2.9e-05,
    "exit_user_s": 1.1e-04,
    "kernel_mode_slowdown": 1.02,
    "module": "kvm_test",
    "nested": True,
    "reason": None,
}
EMULATED = "this host's KVM (kvm_test) emulates the guest's kernel mode (test)"


def scaled(record: RunRecord, by: float, **dimensions: Scalar) -> RunRecord:
    """The record with other times and further dimensions."""

    def changed(one: Series) -> Series:
        return dataclasses.replace(
            one,
            dimensions={**one.dimensions, **dimensions},
            samples=[sample * by for sample in one.samples],
        )

    return dataclasses.replace(record, series=tuple(map(changed, record.series)))


def floor(tier: str, day: int = 3, by: float = 0.25) -> RunRecord:
    """A record of `kvm-floor`: a tier's times of QEMU, `by` times as long, from the same seed."""
    host = dataclasses.replace(factory.machine(accelerator="kvm"), kvm=FACTS)
    made = factory.cold_start(tier, substrate="kvm-floor", host=host, day=day)
    return scaled(made, by)


def with_kernel(kernel: str, tier: str, by: float = 0.5, day: int = 4, turn: str = "") -> RunRecord:
    """A record of QEMU's guests with a kernel by choice; `turn` where it was measured in turns."""
    made = factory.cold_start(tier, day=day, seed=kernel)
    env = {"COPPICE_INTERLEAVE": turn} if turn else {}
    command = dataclasses.replace(made.command, env=env)
    named = {"guest_kernel": kernel} if kernel != "distribution" else {}
    return scaled(dataclasses.replace(made, command=command), by, **named)


def function_only(tier: str, day: int = 5) -> RunRecord:
    """A record of QEMU's guests under a KVM that emulates their kernels."""
    facts = {**FACTS, "kernel_mode_slowdown": 1890.0}
    host = dataclasses.replace(
        factory.machine(accelerator="kvm"), kvm=facts, function_only=EMULATED
    )
    return factory.cold_start(tier, host=host, day=day, seed="function")


def partly(day: int = 6) -> RunRecord:
    """One record of the floor, whose figures count, and of QEMU's guests, which prove function."""
    host = dataclasses.replace(
        factory.machine(accelerator="kvm"), kvm={**FACTS, FUNCTION_ONLY: EMULATED}
    )
    of_floor = factory.cold_start("durable-pool", substrate="kvm-floor", host=host, day=day)
    of_guests = factory.cold_start("full", host=host, day=day, seed="function")
    proving = [
        dataclasses.replace(
            one, conditions=dataclasses.replace(derived(one, host), reach=Reach.FUNCTION)
        )
        for one in of_guests.series
    ]
    return dataclasses.replace(of_floor, series=(*of_floor.series, *proving))
