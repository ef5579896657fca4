"""A first program that no rehearsal has run, with sandboxes that answer as they are told."""

from __future__ import annotations

import errno
import random
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.errors import GuestDied, GuestRefused
from harness.guest.agent_client import Finished
from harness.host.identity import Identity
from harness.procedures import unrehearsed
from harness.procedures.ladder import Climb
from harness.procedures.unrehearsed import METRIC, NAMES, UPLOADED, Attempt, Missing, Programs
from harness.sandbox.noop import NoopSandbox
from harness.sandbox.protocol import Sandbox

SEVERAL = Programs(b"a binary")


class Fake(NoopSandbox):
    def __init__(self, answer: Callable[[Sequence[str]], Finished]) -> None:
        super().__init__(cast(Identity, SimpleNamespace(id="fake")))
        self.answer = answer
        self.files: dict[str, bytes] = {}
        self.refusal: GuestRefused | None = None

    @property
    def agent(self) -> Any:
        return SimpleNamespace(
            run=lambda argv, timeout_s: self.answer(argv), write_file=self._write_file
        )

    def _write_file(self, path: str, data: bytes, mode: int) -> None:
        if self.refusal:
            raise self.refusal
        assert mode == 0o755
        self.files[path] = data


def _climb(program: str, answer: Callable[[Sequence[str]], Finished]) -> Climb:
    return unrehearsed.climb(lambda: cast(Sandbox, Fake(answer)), SEVERAL, program, 1)


def printed(text: str, code: int = 0) -> Finished:
    return Finished(code, 0, text.encode(), b"")


def test_the_clock_stops_after_the_programs_own_output() -> None:
    climb = _climb("sh", lambda argv: printed(f"{argv[-1].split()[-1]}\n"))
    assert climb.failure is None
    assert 0 < climb.rungs["object"] <= climb.rungs["first-reply"] <= climb.rungs[METRIC]
    assert _climb("ls", lambda argv: printed("bin\nproc\n")).failure is None


@pytest.mark.parametrize(
    ("program", "finished"),
    [("sh", printed("another word\n")), ("sh", printed("", 127)), ("ls", printed("proc\n"))],
)
def test_another_output_is_a_failure(program: str, finished: Finished) -> None:
    climb = _climb(program, lambda argv: finished)
    assert not climb.rungs
    assert climb.failure and climb.failure.startswith("WrongAnswer: fake:")


def _refusing(error: Exception) -> Callable[[Sequence[str]], Finished]:
    def answer(argv: Sequence[str]) -> Finished:
        raise error

    return answer


def test_a_program_that_the_sandbox_lacks_is_no_failure_of_it() -> None:
    with pytest.raises(Missing) as missing:
        _climb("python3", _refusing(GuestRefused("no such file", errno.ENOENT)))
    assert isinstance(missing.value.args[0], Fake), "the caller destroys it"


@pytest.mark.parametrize("error", [GuestRefused("denied", errno.EACCES), GuestDied("gone")])
def test_any_other_error_is(error: Exception) -> None:
    climb = _climb("sh", _refusing(error))
    assert climb.failure == f"{type(error).__name__}: {error.args[0]}" and climb.sandbox


def test_the_uploaded_binary_is_another_file_each_time_and_must_compute_its_answer() -> None:
    guest = Fake(lambda argv: printed(f"{argv[1][::-1]}\n"))
    for _ in range(2):
        climb = unrehearsed.climb(lambda: cast(Sandbox, guest), SEVERAL, UPLOADED, 1)
        assert climb.failure is None and METRIC in climb.rungs
    assert len(guest.files) == len(set(guest.files.values())) == 2
    echoed = _climb(UPLOADED, lambda argv: printed(f"{argv[1]}\n"))
    assert echoed.failure and echoed.failure.startswith("WrongAnswer")


def test_a_sandbox_without_a_place_for_the_binary_is_no_failure_of_it() -> None:
    guest = Fake(lambda argv: printed(""))
    guest.refusal = GuestRefused("read-only file system", errno.EROFS)
    with pytest.raises(Missing):
        unrehearsed.climb(lambda: cast(Sandbox, guest), SEVERAL, UPLOADED, 1)
    with pytest.raises(Missing):
        _climb(UPLOADED, _refusing(GuestRefused("/tmp is mounted noexec", errno.EACCES)))


def test_the_compiled_binary_answers_and_removes_itself(tmp_path: Path) -> None:
    several = unrehearsed.programs(tmp_path)
    if several.fresh is None:
        pytest.skip("there is no compiler for it here")
    file = tmp_path / "uploaded"
    file.write_bytes(several.fresh + b"16 random bytes.")
    file.chmod(0o755)
    assert subprocess.check_output([file, "abc"]) == b"cba\n"
    assert not file.exists()


def test_a_fleet_runs_each_program_about_equally_often() -> None:
    fleet = [Fake(lambda argv: printed("nothing")) for _ in range(2 * len(NAMES))]
    found = unrehearsed.run_in_each(cast(list[Sandbox], fleet), SEVERAL, random.Random(1), 1)
    assert set(found) == set(NAMES)
    assert {len(answers.failures) for answers in found.values()} == {2}
    assert [index for index, _ in found["sh"].failures] == [0, 1]


def test_every_program_is_drawn_equally_often_in_an_order_that_the_seed_decides() -> None:
    count = 20 * len(NAMES)
    first, again, other = (
        unrehearsed.drawn(count, NAMES, random.Random(seed)) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert set(Counter(first).values()) == {20}
    single = {unrehearsed.drawn(1, NAMES, random.Random(seed))[0] for seed in range(50)}
    assert single == set(NAMES)


def test_each_program_has_a_series_that_says_it_was_not_rehearsed() -> None:
    attempts = [
        Attempt("sh", Climb({METRIC: 0.2})),
        Attempt("ls", Climb({METRIC: 0.1})),
        Attempt("sh", Climb({}, "GuestDied: gone")),
    ]
    found = {one.dimensions["program"]: one for one in unrehearsed.series(attempts, {"tier": "x"})}
    assert set(found) == {"ls", "sh"}
    assert found["sh"].samples == [0.2] and found["sh"].failures[0].index == 1
    assert {one.dimensions["rehearsed"] for one in found.values()} == {"no"}
