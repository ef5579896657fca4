"""What a figure must be read with: stated by new records, derived for older ones."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from harness.measure import record
from harness.measure.conditions import Conditions, Reach, derived
from harness.measure.record import Facts, Series, conditions_of
from tests.measure.factory import run_record
from tests.site.conftest import kept

__all__ = ["kept"]


def of(
    metric: str,
    dimensions: Facts,
    accelerator: str | None = "tcg",
    function_only: str | None = None,
) -> Conditions:
    machine = dataclasses.replace(
        run_record().machine, accelerator=accelerator, function_only=function_only
    )
    return derived(Series(metric, "s", "lower", dimensions, "closed"), machine)


@pytest.mark.parametrize(
    ("dimensions", "of_machine", "ran_by"),
    [
        ({"substrate": "qemu"}, "tcg", "tcg"),
        ({"substrate": "qemu"}, "kvm", "kvm"),
        ({"substrate": "qemu"}, None, None),
        ({"substrate": "bhyve"}, "vmm", "vmm"),
        ({"substrate": "qemu", "accelerator": "kvm"}, "tcg", "kvm"),
        ({"substrate": "elsewhere", "accelerator": None}, "tcg", "none"),
        ({"substrate": "oci-net-overlay"}, "tcg", "none"),
        ({"substrate": "jail-raw"}, None, "none"),
        ({"substrate": "gvisor"}, "tcg", "none"),
        ({"substrate": "noop"}, "tcg", "none"),
        ({"path": "microvm"}, "tcg", "tcg"),
        ({"path": "policy"}, "tcg", "none"),
        ({"mechanism": "pf"}, None, "none"),
    ],
)
def test_only_guests_of_a_vmm_are_emulated(
    dimensions: Facts, of_machine: str | None, ran_by: str | None
) -> None:
    found = of("reply", dimensions, of_machine)
    assert found.accelerator == ran_by
    assert ("emulated" in found.notes) is (ran_by == "tcg")
    assert ("accelerator not recorded" in found.notes) is (ran_by is None)


@pytest.mark.parametrize("forked", [{"sharing": "forked"}, {"vmm": "forked"}])
def test_a_host_with_kvm_cannot_repeat_what_forked_vmms_did(forked: Facts) -> None:
    found = of("host-change", {"substrate": "qemu", **forked})
    assert found.reach is Reach.EMULATION and not found.repeatable
    assert found.notes == ["emulated", "possible under TCG only"]
    other = of("host-change", {"substrate": "qemu", "sharing": "mapped", "vmm": "waits"})
    assert other.repeatable and other.notes == ["emulated"]


def test_a_machine_that_proves_function_alone_says_so_for_each_series() -> None:
    found = of("first-reply", {"substrate": "bhyve"}, "vmm", "nested in an emulator")
    assert found.reach is Reach.FUNCTION and not found.repeatable


@pytest.mark.parametrize(
    ("metric", "dimensions", "rehearsed"),
    [
        ("first-exec", {"substrate": "qemu", "tier": "durable-prewarm-pool"}, True),
        ("first-exec", {"substrate": "qemu", "tier": "full"}, False),
        ("first-command", {"substrate": "qemu", "sdk": "http"}, True),
        ("first-run-code", {"substrate": "qemu", "sdk": "http"}, True),
        ("first-command", {"substrate": "noop", "sdk": "http"}, None),
        ("first-reply", {"substrate": "qemu", "tier": "durable-prewarm-pool"}, None),
        ("first-exec", {"substrate": "qemu", "tier": "durable-pool", "rehearsed": "no"}, False),
        ("unheard-of", {"rehearsed": "yes"}, True),
    ],
)
def test_a_program_that_a_pool_has_run_is_rehearsed(
    metric: str, dimensions: Facts, rehearsed: bool | None
) -> None:
    found = of(metric, dimensions)
    assert found.rehearsed is rehearsed
    assert ("rehearsed" in found.notes) is (rehearsed is True)
    assert ("not rehearsed" in found.notes) is (rehearsed is False)


def test_a_record_keeps_what_it_states_and_an_older_one_is_read_without(tmp_path: Path) -> None:
    stated = Conditions("kvm", Reach.ANYWHERE, rehearsed=True)
    first, *others = run_record().series
    written = run_record(series=[dataclasses.replace(first, conditions=stated), *others])
    loaded = record.load(record.write(written, tmp_path))
    assert loaded.series[0].conditions == stated
    assert conditions_of(loaded.series[0], loaded.machine) == stated
    assert all("conditions" not in one for one in loaded.to_json()["series"][1:])
    old = record.RunRecord.from_json(run_record().to_json())
    assert old.series[0].conditions is None
    assert conditions_of(old.series[0], old.machine) == derived(old.series[0], old.machine)


def test_every_committed_series_has_its_conditions(kept: Path) -> None:
    seen: Counter[str] = Counter()
    for path in record.find(kept):
        run = record.load(path)
        for one in run.series:
            found = conditions_of(one, run.machine)
            seen.update(found.notes)
            if one.dimensions.get("sharing") == "forked":
                assert not found.repeatable
    assert seen["emulated"] and seen["possible under TCG only"] and seen["not rehearsed"]
