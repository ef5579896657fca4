"""A record is superseded once all that it measured was measured again, as well, on its machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.measure import record
from harness.measure.endpoint_facts import EndpointFacts
from harness.measure.record import RunRecord, Validity
from harness.measure.supersession import Superseded, measured, superseded
from tests.measure.factory import run_record, series

VALID = Validity("valid")


def run(number: int, *metrics: str, **changes: object) -> RunRecord:
    """A run of the day of this number, with a series of each metric."""
    return run_record(
        run_id=f"202601{number:02d}T000000Z-{number:08x}",
        series=tuple(series(metric=metric) for metric in metrics),
        **{"validity": VALID, **changes},
    )


def found(*records: RunRecord) -> dict[str, Superseded]:
    """What superseded each of these, by the first character of its day; given newest first."""
    known = superseded([measured(one) for one in reversed(records)])
    return {id[7]: one for id, one in known.items()}


def test_the_same_series_measured_again_supersede() -> None:
    by = found(run(1, "a", "b"), run(2, "a", "b", "c"))
    assert by == {"1": Superseded(["20260102T000000Z-00000002"], [])}


def test_a_series_that_was_not_measured_again_keeps_its_record_current() -> None:
    assert found(run(1, "a", "b"), run(2, "a"), run(3, "a")).keys() == {"2"}


def test_several_records_may_supersede_one_together_and_the_first_ones_count() -> None:
    by = found(run(1, "a", "b"), run(2, "a"), run(3, "b"), run(4, "a", "b"))
    assert [id[7] for id in by["1"].by] == ["2", "3"]


def test_other_dimensions_are_another_series() -> None:
    other = replace(run(2, "a"), series=(series(metric="a", dimensions={"substrate": "qemu"}),))
    assert found(run(1, "a"), other) == {}


@pytest.mark.parametrize(
    ("older", "newer", "gone"),
    [
        ({}, {"validity": Validity("suspect")}, False),
        ({"validity": Validity("suspect")}, {"validity": Validity("suspect")}, True),
        ({"validity": Validity("suspect")}, {"validity": VALID}, True),
        ({"validity": Validity("failed")}, {"validity": Validity("suspect")}, True),
        ({"profile": "full"}, {"profile": "quick"}, False),
        ({"profile": "quick"}, {"profile": "full"}, True),
        ({}, {"rig": record.Rig("density", "rigs/test_density.py", "a" * 64)}, False),
        ({}, {"machine": replace(run_record().machine, id="other")}, False),
        ({}, {"machine": replace(run_record().machine, function_only="emulated")}, False),
        ({}, {"series": (series(metric="a", samples=()),)}, False),
        ({"series": ()}, {}, True),
        ({"series": ()}, {"series": ()}, False),
    ],
)  # fmt: skip
def test_only_a_record_that_is_as_good_supersedes(
    older: dict[str, object], newer: dict[str, object], gone: bool
) -> None:
    assert bool(found(replace(run(1, "a"), **older), replace(run(2, "a"), **newer))) is gone  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("older", "newer", "gone"),
    [("kvm", "tcg", False), ("tcg", "kvm", True), ("tcg", "tcg", True), ("kvm", "kvm", True)],
)
def test_emulated_guests_supersede_only_emulated_ones(older: str, newer: str, gone: bool) -> None:
    host = run_record().machine
    guests = (series(metric="a", dimensions={"substrate": "qemu"}),)
    both = [
        replace(run(day, "a"), series=guests, machine=replace(host, accelerator=accelerator))
        for day, accelerator in ((1, older), (2, newer))
    ]
    assert bool(found(*both)) is gone
    # What has no guests is the same under either.
    plain = [replace(one, series=run(1, "a").series) for one in both]
    assert found(*plain)


def test_what_changed_since_is_named() -> None:
    old = run(1, "a")
    new = replace(
        run(2, "a"),
        rig=replace(old.rig, sha256="9" * 64),
        git=record.Git("c" * 40, False),
        machine=replace(old.machine, kernel="Linux 6.12"),
        images=(replace(old.images[0], sha256="8" * 64), record.Image("new", "7" * 64, {})),
        patches=(replace(old.patches[0], sha256="6" * 64),),
    )
    assert found(old, new)["1"].changes == [
        "the rig's file", "the commit", "the kernel", "the image guest",
    ]  # fmt: skip


def service(address: str = "https://a.example", **facts: object) -> EndpointFacts:
    return EndpointFacts("a service", "cubesandbox", address, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("older", "newer", "gone"),
    [
        (service(), service(), True),
        (service(), replace(service(), name="renamed"), True),
        (service(), service("https://b.example"), False),
        (service(), replace(service(), system="e2b"), False),
        (service(told={"template": "a"}), service(told={"template": "b"}), False),
        (service(), None, False),
        (None, service(), False),
    ],
)
def test_a_record_of_an_endpoint_is_superseded_by_one_of_the_same_endpoint(
    older: EndpointFacts | None, newer: EndpointFacts | None, gone: bool
) -> None:
    assert bool(found(run(1, "a", endpoint=older), run(2, "a", endpoint=newer))) is gone


def test_what_an_endpoint_answers_is_named_where_it_has_changed() -> None:
    old = run(1, "a", endpoint=service(answered={"server": "1"}))
    new = run(2, "a", endpoint=service(answered={"server": "2"}))
    assert found(old, new)["1"].changes == ["what the service answers"]
