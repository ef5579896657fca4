"""Schedules are what their seed says, and a trace file that is rubbish is refused by its line."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import PathError, UsageError
from harness.load import arrivals
from harness.load.arrivals import FORMAT, Lifetime, chosen

HEAD = f'{{"format": "{FORMAT}"}}\n'


def test_constant_arrivals_are_equally_far_apart() -> None:
    times = [each.at_s for each in arrivals.constant(50, 5).entries]
    assert times == pytest.approx([0, 0.02, 0.04, 0.06, 0.08])


def test_a_burst_has_all_arrivals_of_a_second_at_its_start() -> None:
    times = [each.at_s for each in arrivals.burst(3, 7).entries]
    assert times == [0, 0, 0, 1, 1, 1, 2]


def test_poisson_gaps_have_the_mean_and_the_spread_of_their_rate() -> None:
    times = [each.at_s for each in arrivals.poisson(100, 20_000, seed=3).entries]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert times[0] == 0
    assert mean == pytest.approx(0.01, rel=0.03)
    assert variance**0.5 == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize("process", arrivals.PROCESSES)
def test_one_seed_makes_one_schedule(process: str) -> None:
    kinds = ("sh", "python")
    first, again, other = (
        chosen(process, 20, 300, seed, Lifetime(1, 5), kinds) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.digest == again.digest != other.digest
    assert {each.kind for each in first.entries} == set(kinds)
    assert all(1 <= each.lifetime_s <= 5 for each in first.entries)


def test_lifetimes_do_not_move_the_arrivals() -> None:
    plain, kept = (arrivals.poisson(9, 50, 4, lifetime) for lifetime in (None, Lifetime(1, 2)))
    assert [each.at_s for each in plain.entries] == [each.at_s for each in kept.entries]


@pytest.mark.parametrize(
    ("name", "count", "rate", "low", "high"),
    [
        ("burst", 500, 50, 10, 120),
        ("template_storm", 300, 30, 30, 90),
        ("mixed_spec", 400, 10, 30, 300),
    ],
)
def test_workloads_are_as_published(
    name: str, count: int, rate: float, low: float, high: float
) -> None:
    made = arrivals.workload(name, seed=7)
    assert (len(made), made.rate, made.workload, made.arrivals) == (count, rate, name, "poisson")
    assert all(low <= each.lifetime_s <= high for each in made.entries)
    assert made.entries[0].at_s == 0


def test_an_unknown_workload_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no workload is named 'flood'") as caught:
        arrivals.workload("flood", 1)
    assert "mixed_spec" in str(caught.value.hint)


def test_a_trace_file_brings_the_schedule_back(tmp_path: Path) -> None:
    made = arrivals.poisson(30, 200, 5, Lifetime(0, 3), ("sh", "python"))
    arrivals.dump(made, tmp_path / "trace")
    loaded = chosen(str(tmp_path / "trace"), 1, 1)
    assert loaded.digest == made.digest
    assert loaded.arrivals == "trace"
    assert loaded.rate == pytest.approx(199 / made.duration_s)
    assert loaded == replace(made, arrivals="trace", rate=loaded.rate, seed=None)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "has no arrivals"),
        (HEAD, "has no arrivals"),
        ('{"at_s": 0}\n', "line 1: the first line must have"),
        ("arrivals\n", "line 1: "),
        ("\xff\xfe", "line 1: "),
        (HEAD + "[0]\n", "line 2: not a JSON object"),
        (HEAD + '{"at_s": 0}\n{"at_s": NaN}\n', "line 3: NaN"),
        (HEAD + '{"at_s": 1e999}\n', "line 2: the number"),
        (HEAD + '{"at_s": 1e300}\n', "line 2: at_s is not between 0 and 86400 seconds"),
        (HEAD + '{"at_s": -1}\n', "line 2: at_s is not between"),
        (HEAD + '{"at_s": true}\n', "line 2: at_s is not a number"),
        (HEAD + '{"at_s": null}\n', "line 2: at_s is not a number"),
        (HEAD + '{"at_s": "0"}\n', "line 2: at_s is not a number"),
        (HEAD + '{"kind": "sh"}\n', "line 2: at_s is missing"),
        (HEAD + '{"at_s": 2}\n{"at_s": 1}\n', "line 3: at_s 1 is before 2"),
        (HEAD + '{"at_s": 0, "rate": 1}\n', "line 2: 'rate' is unknown"),
        (HEAD + '{"at_s": 0, "at_s": 1}\n', "line 2: the name 'at_s' is repeated"),
        (HEAD + '{"at_s": 0, "lifetime_s": -2}\n', "line 2: lifetime_s is not between"),
        (HEAD + '{"at_s": 0, "kind": ""}\n', "line 2: kind is not a text"),
        (HEAD + '{"at_s": 0, "kind": "' + "x" * 5000 + '"}\n', "line 2: longer than"),
        (HEAD + "\n", "line 2: "),
        (HEAD + "[" * 4000 + "\n", "line 2: it is nested"),
    ],
)
def test_a_broken_trace_is_refused_in_one_sentence_by_its_line(
    tmp_path: Path, content: str, fault: str
) -> None:
    path = tmp_path / "trace"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        arrivals.load(path)
    message = str(caught.value.args[0])
    assert message.startswith(str(path))
    assert fault in message
    assert "\n" not in message and len(message) < 400


def test_a_trace_is_no_longer_than_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MOST", 2)
    path = tmp_path / "trace"
    path.write_text(HEAD + '{"at_s": 0}\n' * 3, encoding="utf-8")
    with pytest.raises(UsageError, match="line 4: more than 2 arrivals"):
        arrivals.load(path)


def test_a_kind_that_means_nothing_is_refused_by_its_line(tmp_path: Path) -> None:
    made = arrivals.poisson(30, 20, 5, None, ("sh", "python"))
    first = 2 + [each.kind for each in made.entries].index("python")
    arrivals.dump(made, tmp_path / "trace")
    with pytest.raises(UsageError, match=f"trace, line {first}: the kind 'python' is unknown"):
        arrivals.load(tmp_path / "trace", ("default", "sh"))


def test_a_pipe_is_no_trace(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UsageError, match="cannot be read: it is no regular file"):
            arrivals.load(path)


@pytest.mark.parametrize("path", ["/", "/nonexistent/trace"])
def test_a_trace_that_cannot_be_written_is_a_typed_error(path: str) -> None:
    with pytest.raises(PathError, match=f"^{path}"):
        arrivals.dump(arrivals.constant(1, 1), Path(path))


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_a_trace_that_cannot_be_read_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="cannot be read") as caught:
        chosen(path, 1, 1)
    assert "poisson" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("rate", "count"), [(0, 1), (-1, 1), (float("nan"), 1), (1, 0), (0.001, 500)]
)
def test_a_schedule_that_cannot_be_is_refused(rate: float, count: int) -> None:
    with pytest.raises(UsageError, match="are no schedule"):
        chosen("constant", rate, count)


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "2,1", "1,", ",2", "1,2,3", "nan", "inf", "1_0", "\u0663"]
)
def test_a_lifetime_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--lifetime"):
        Lifetime.parse(text)


def test_a_lifetime_is_one_number_or_two() -> None:
    assert Lifetime.parse("2") == Lifetime(2, 2)
    assert Lifetime.parse("10,120") == Lifetime(10, 120)
