"""What supersedes a series, and by what change."""

from __future__ import annotations

import dataclasses

from harness.claims.environment import Superseded, superseded, wholly
from harness.measure.record import Image, Patch, RunRecord, Validity
from tests.site import factory

SUSPECT = Validity("suspect", ("load from elsewhere (test)",))


def run(day: int, **changed: object) -> RunRecord:
    """The same measurement on another day, in the same environment except for what is changed."""
    first = factory.cold_start("full", n=1, day=1)
    base = factory.cold_start("full", n=1, day=day)
    same = dataclasses.replace(base, rig=first.rig, images=first.images)
    return dataclasses.replace(same, **changed)  # type: ignore[arg-type]


def test_only_a_newer_run_of_the_same_series_supersedes() -> None:
    older = run(1)
    whole = len(older.series)
    assert superseded([older]) == {}
    again = run(2)
    found = superseded([again, older])
    assert set(found) == {(older.run_id, number) for number in range(whole)}
    assert set(found.values()) == {Superseded(again.run_id, ())}
    other = factory.cold_start("durable-pool", n=1, day=2)
    elsewhere = run(2, machine=factory.machine("another"))
    rig = run(2, rig=dataclasses.replace(older.rig, id="another"))
    hardware = run(2, machine=factory.machine(accelerator="kvm"))
    for newer in (other, elsewhere, rig, hardware):
        assert superseded([older, newer]) == {}
    # One that does not state its accelerator may be the same.
    assert superseded([older, run(2, machine=factory.machine(accelerator=None))])


def test_a_run_supersedes_none_that_was_measured_better() -> None:
    valid, suspect = run(1), run(2, validity=SUSPECT)
    quick = run(3, profile="quick")
    assert superseded([valid, suspect]) == {} == superseded([valid, quick])
    assert wholly([suspect, quick])[suspect.run_id].by == quick.run_id
    later = run(4)
    found = wholly([valid, suspect, quick, later])
    assert {id: one.by for id, one in found.items()} == {
        valid.run_id: later.run_id,
        suspect.run_id: quick.run_id,
        quick.run_id: later.run_id,
    }


def test_it_says_what_had_changed() -> None:
    older = run(1)
    for newer, text in (
        (run(2), "measured again, nothing else changed"),
        (run(2, rig=dataclasses.replace(older.rig, sha256="0" * 64)), "the rig changed"),
        (run(2, patches=(Patch("a.diff", "0" * 64, True),)), "the patches changed"),
        (run(2, patches=(Patch("a.diff", "0" * 64, False),)),
         "measured again, nothing else changed"),
        (run(2, machine=dataclasses.replace(older.machine, kernel="7")), "the kernel changed"),
        (run(2, images=(Image(older.images[0].name, "0" * 64, {}),)), "the image changed"),
        (run(2, images=(Image("another", "0" * 64, {}),)), "measured again, nothing else changed"),
        (run(2, rig=dataclasses.replace(older.rig, sha256="0" * 64),
             machine=dataclasses.replace(older.machine, kernel="7")),
         "the rig changed, the kernel changed"),
    ):  # fmt: skip
        assert wholly([older, newer])[older.run_id].text == text


def test_a_record_is_wholly_superseded_when_each_of_its_series_is() -> None:
    older, middle = run(1), run(2)
    part = dataclasses.replace(middle, series=middle.series[:2])
    rest = run(3, series=older.series[2:])
    assert wholly([older, part]) == {}
    assert wholly([older, part, rest])[older.run_id].by == rest.run_id
    assert wholly([run(1, series=())]) == {}
