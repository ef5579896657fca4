"""What a selector means, name by name, and which series of two sides are compared."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.measure import record, selection
from harness.measure.comparison import Thresholds
from harness.measure.endpoint_facts import EndpointFacts
from harness.measure.record import RunRecord, Scalar, Series
from harness.measure.selection import Side, compare_sides, select
from tests.measure.factory import run_record, series

HIGHER = Series("rate", "1/s", "higher", {"n": 1}, "closed", (), [1.0 + k / 9 for k in range(9)])


def _record(number: int, turn: str = "", *several: Series) -> RunRecord:
    env = {selection.INTERLEAVE: turn} if turn else {}
    made = run_record(run_id=f"20260102T0304{number:02d}Z-0123abcd")
    return dataclasses.replace(
        made,
        series=several or made.series,
        command=dataclasses.replace(made.command, env=env),
    )


def _other(one: RunRecord) -> RunRecord:
    """A record that a selector by any name can tell from the first."""
    return dataclasses.replace(
        one,
        rig=dataclasses.replace(one.rig, id="net-rtt"),
        machine=dataclasses.replace(one.machine, id="b-machine", kernel="Linux 6.9"),
        git=record.Git("c" * 40, False),
        profile="full",
    )


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("rig", "cold-start", "net-rtt"),
        ("machine", "a-machine", "b-machine"),
        ("commit", "b" * 7, "c" * 40),
        ("profile", "quick", "full"),
        ("kernel", "Linux 6.1", "Linux 6.9"),
        ("interleave", "s1/a", "s1/b"),
    ],
)
def test_records_by_what_they_say(name: str, first: str, second: str, tmp_path: Path) -> None:
    made = [_record(1, "s1/a/0"), _other(_record(2, "s1/b/0"))]
    for one in made:
        record.write(one, tmp_path)
    for value, one in zip((first, second), made, strict=True):
        found = select(f"{name}={value}", tmp_path).matches
        assert [each.run_id for each, _ in found] == [one.run_id]
    both = select("metric-free=none, pinned=no", tmp_path)
    assert [each.run_id for each, _ in both.matches] == [one.run_id for one in made]
    with pytest.raises(UsageError, match="no record matches"):
        select(f"{name}={first}-not", tmp_path)


def test_a_dimension_is_typed_as_it_is_read(tmp_path: Path) -> None:
    record.write(_record(1), tmp_path)
    for text in ("substrate=noop", "concurrency=1", "pinned=no", "tier=none", "rig=cold-start"):
        assert len(select(text, tmp_path).matches) == 1
    for text in ("substrate=qemu", "concurrency=2", "pinned=yes", "tier=full"):
        with pytest.raises(UsageError, match="no record matches"):
            select(text, tmp_path)
    with pytest.raises(UsageError, match="a name has no value"):
        select("=x", tmp_path)


def test_a_run_by_the_beginning_of_its_id_or_its_file(tmp_path: Path) -> None:
    path = record.write(_record(1), tmp_path)
    record.write(_record(2), tmp_path)
    assert [one.run_id for one, _ in select("20260102T030401", tmp_path).matches] == [
        "20260102T030401Z-0123abcd"
    ]
    assert len(select("20260102", tmp_path).matches) == 2
    assert len(select(str(path), tmp_path).matches) == 1
    with pytest.raises(UsageError, match="no record matches"):
        select("2026010", tmp_path)  # shorter than a day is no run's id


@pytest.mark.parametrize(
    ("turn", "place"),
    [
        ("s1/a/0", ("s1", "a", 0)), ("s1/a/12", ("s1", "a", 12)),
        ("", None), ("s1/a", None), ("s1/a/x", None), ("s1/a/0/1", None),
    ],
)  # fmt: skip
def test_a_turn_is_a_session_an_arm_and_a_round(
    turn: str, place: tuple[str, str, int] | None
) -> None:
    assert selection.interleaving(_record(1, turn)) == place


def _side(*records: RunRecord) -> Side:
    return Side("x", [(one, each) for one in records for each in one.series])


def test_a_side_is_interleaved_when_all_of_its_records_took_turns() -> None:
    assert _side(_record(1, "s/a/0"), _record(2, "s/a/1")).interleaved
    assert not _side(_record(1, "s/a/0"), _record(2)).interleaved
    assert not _side().interleaved


def _of(value: float, **dimensions: Scalar) -> Series:
    return series(dimensions=dimensions, samples=[value + k / 100 for k in range(9)])


def test_the_newest_of_several_runs_stands_alone() -> None:
    old, new = _record(1, "", _of(1.0, n=1)), _record(2, "", _of(5.0, n=1))
    (row,) = compare_sides(_side(old, new), _side(_record(3, "", _of(9.0, n=1))), Thresholds())
    assert row.records == ([new.run_id], ["20260102T030403Z-0123abcd"])
    assert (row.comparison.before.value, row.comparison.after.value) == (5.04, 9.04)
    assert (row.rig, row.metric, row.unit, row.better) == (
        "cold-start", "first-reply", "s", "lower",
    )  # fmt: skip


def test_rounds_of_the_newest_session_that_both_sides_have() -> None:
    left = [_record(k, f"s{1 + k // 3}/a/{k % 3}", _of(1.0 + k, n=1)) for k in range(9)]
    right = [_record(20 + k, f"s{1 + k // 3}/b/{k % 3}", _of(2.0 + k, n=1)) for k in range(5)]
    (row,) = compare_sides(_side(*left), _side(*right), Thresholds())
    # Of the second session, which is the newest of both, the first two rounds: 3 and 4.
    assert row.comparison.pairs == 2 and row.comparison.n == (18, 18)
    assert row.comparison.before.value == pytest.approx(1.0 + 3 + 0.04)
    assert row.comparison.after.value == pytest.approx(2.0 + 3 + 0.04)


def test_more_is_better_where_the_series_says_so() -> None:
    slower = dataclasses.replace(HIGHER, samples=[one / 2 for one in HIGHER.samples])
    one, other = _side(_record(1, "", HIGHER)), _side(_record(2, "", slower))
    (row,) = compare_sides(one, other, Thresholds(alpha=0.5))
    assert (row.better, row.comparison.outcome.value) == ("higher", "worse")


def test_what_differs_as_a_whole_is_compared_and_all_else_must_agree() -> None:
    one = _side(_record(1, "", _of(1.0, n=1, tier="full"), _of(2.0, n=10, tier="full")))
    other = _side(_record(2, "", _of(3.0, n=1, tier="pool"), _of(4.0, n=10, tier="pool")))
    rows = compare_sides(one, other, Thresholds())
    assert [dict(row.dimensions) for row in rows] == [{"n": 1}, {"n": 10}]
    assert [row.comparison.after.value for row in rows] == [3.04, 4.04]
    # A dimension that one side has not at all is compared, too.
    bare = _side(_record(3, "", _of(5.0, n=1)))
    (row,) = compare_sides(one, bare, Thresholds())
    assert dict(row.dimensions) == {"n": 1} and row.comparison.after.value == 5.04
    empty = dataclasses.replace(_of(1.0, n=1), samples=())
    with pytest.raises(UsageError, match="no series in common"):
        compare_sides(one, _side(_record(4, "", empty)), Thresholds())


def test_two_endpoints_of_one_system_are_two_series(tmp_path: Path) -> None:
    far = dataclasses.replace(HIGHER, dimensions={"system": "cubesandbox", "n": 1})
    own = dataclasses.replace(HIGHER, dimensions={"substrate": "qemu", "n": 1})
    services = [EndpointFacts(f"s{n}", "cubesandbox", f"https://{n}.example") for n in (1, 2)]
    for number, service in enumerate(services, 1):
        one = dataclasses.replace(_record(number, "", far), endpoint=service)
        record.write(one, tmp_path)
    record.write(_record(3, "", own), tmp_path)
    for name in ("s2", "https://2.example"):
        assert len(select(f"endpoint={name}", tmp_path).matches) == 1
    a, b = (select(f"endpoint={one.name}", tmp_path) for one in services)
    identities = [one.identity for one in services]
    assert len(compare_sides(a, b, Thresholds())) == 1
    assert selection.varied(a, b) == {"endpoint": tuple(identities)}
    both, ours = select("system=cubesandbox", tmp_path), select("substrate=qemu", tmp_path)
    rows = compare_sides(both, ours, Thresholds())
    assert [row.own[0]["endpoint"] for row in rows] == identities
