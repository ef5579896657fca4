"""What a cold start's times are taken from, with sandboxes that answer wrongly. All are fakes."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.errors import GuestDied, SandboxError
from harness.guest.agent_client import Finished
from harness.host.boot import boot_id
from harness.host.identity import Identity
from harness.procedures.ladder import (
    NO_KERNEL,
    RUNGS,
    Climb,
    climb,
    climb_together,
    conclude,
    prove_own_kernel,
)
from harness.sandbox.noop import NoopSandbox
from harness.sandbox.protocol import Sandbox


class Fake(NoopSandbox):
    """Answers as it is told to; `resumed` is what its VMM says of when it resumed."""

    def __init__(self, **told: Any) -> None:
        super().__init__(cast(Identity, SimpleNamespace(id="fake")))
        self.told = told
        self.asked: list[str] = []

    def first_exec(self, word: str) -> Finished:
        self.asked.append("exec")
        output: bytes = self.told.get("output", f"{word}\n".encode())
        return Finished(self.told.get("code", 0), 0, output, b"")

    def touch(self, mib: int) -> None:
        self.asked.append("touch")

    def resumed_at(self) -> float:
        if "vmm" in self.told:
            raise GuestDied(self.told["vmm"])
        return cast(float, self.told.get("resumed", self._awake))

    @property
    def agent(self) -> Any:
        told = {"kernel": self.told.get("kernel", "6.1"), "boot_id": self.told["boot_id"]}
        return SimpleNamespace(hello=lambda: told)


def _climbed(upto: str = RUNGS[-1], **told: Any) -> tuple[Climb, Fake]:
    sandbox = Fake(**told)
    return climb(lambda: cast(Sandbox, sandbox), upto, 1), sandbox


def test_rungs_that_are_not_offered_are_passed_by() -> None:
    """They have no times, and what comes after them is still timed from the request."""
    sandbox = Fake()
    done = climb(lambda: cast(Sandbox, sandbox), RUNGS[-1], 1, {"first-exec": "it has no kernel"})
    assert done.failure is None and sandbox.asked == ["touch"]
    assert list(done.rungs) == ["object", "first-reply", "first-touch"]
    assert list(done.rungs.values()) == sorted(done.rungs.values())
    assert climb(lambda: cast(Sandbox, Fake()), "first-exec", 1, ["first-exec"]).failure is None


def test_a_guest_without_a_kernel_has_none_of_its_own() -> None:
    bare = Fake(kernel=NO_KERNEL, boot_id="none")
    with pytest.raises(SandboxError, match="runs on no kernel, not on one of its own"):
        prove_own_kernel(cast(Sandbox, bare))


@pytest.mark.parametrize(
    ("upto", "rungs", "asked"),
    [
        ("first-reply", ["object", "first-reply"], []),
        ("first-exec", ["object", "first-reply", "first-exec"], ["exec"]),
        (
            "first-touch",
            ["object", "first-reply", "first-exec", "first-touch"],
            ["exec", "touch"],
        ),
    ],
)
def test_a_climb_ends_at_the_rung_that_is_asked_for(
    upto: str, rungs: list[str], asked: list[str]
) -> None:
    one, sandbox = _climbed(upto)
    assert one.failure is None and list(one.rungs) == rungs and sandbox.asked == asked
    assert list(one.rungs.values()) == sorted(one.rungs.values())
    assert one.sandbox is cast(Sandbox, sandbox)


@pytest.mark.parametrize("upto", ["first-exec", "first-touch"])
@pytest.mark.parametrize(
    "told", [{"output": b""}, {"output": b"another word\n"}, {"code": 1}, {"code": 127}]
)
def test_a_first_process_that_did_not_say_the_word_has_no_times(
    upto: str, told: dict[str, Any]
) -> None:
    """However fast it was: the word is new each time, so that none can be known before."""
    one, sandbox = _climbed(upto, **told)
    assert one.rungs == {} and one.sandbox is cast(Sandbox, sandbox)
    assert one.failure and one.failure.startswith("WrongAnswer: fake: the first process returned")


def test_the_word_is_another_each_time() -> None:
    words: list[str] = []

    class Listening(Fake):
        def first_exec(self, word: str) -> Finished:
            words.append(word)
            return super().first_exec(word)

    for _ in range(3):
        climb(lambda: cast(Sandbox, Listening()), "first-exec", 1)
    assert len(set(words)) == 3


def _concluded(one: Climb, own_kernel: bool = False) -> list[Sandbox]:
    released: list[Sandbox] = []
    conclude([one], released.append, own_kernel)
    assert one.sandbox is None
    return released


@pytest.mark.parametrize(
    ("told", "expected"), [(0.5, 2.0), (2.5, 2.5), (3.5, 3.0), (-9.0, 2.0), (99.0, 3.0)]
)
def test_what_the_vmm_says_of_its_resumption_lies_between_the_rungs_beside_it(
    told: float, expected: float
) -> None:
    """It exists before it can resume, and a reply shows that it had."""
    start = 100.0
    sandbox = cast(Sandbox, Fake(resumed=start + told))
    one = Climb({"object": 2.0, "first-reply": 3.0, "first-exec": 4.0}, None, sandbox, start)
    assert _concluded(one) == [sandbox]
    assert one.rungs.pop("resumed") == expected
    assert one.rungs == {"object": 2.0, "first-reply": 3.0, "first-exec": 4.0}


def test_a_vmm_that_cannot_say_when_it_resumed_is_a_failure() -> None:
    one, sandbox = _climbed(vmm="it is gone")
    assert _concluded(one) == [cast(Sandbox, sandbox)]
    assert (one.rungs, one.failure) == ({}, "GuestDied: it is gone")


def test_a_failed_climb_is_released_and_not_asked() -> None:
    one, sandbox = _climbed(code=1, vmm="not to be asked")
    failure = one.failure
    assert _concluded(one) == [cast(Sandbox, sandbox)]
    assert one.failure == failure and failure and "not to be asked" not in failure
    conclude([Climb({}, "no sandbox came")], lambda one: pytest.fail("released"), True)


def test_times_of_a_microvm_need_a_kernel_of_its_own() -> None:
    same, _ = _climbed(boot_id=boot_id())
    assert len(_concluded(same, own_kernel=True)) == 1
    assert same.rungs == {} and same.failure
    assert same.failure.startswith("SandboxError: fake runs on this host's kernel")
    other, _ = _climbed(boot_id="another")
    _concluded(other, own_kernel=True)
    assert other.failure is None and set(other.rungs) == set(RUNGS)
    unasked, _ = _climbed(boot_id=boot_id())
    _concluded(unasked, own_kernel=False)
    assert unasked.failure is None


@pytest.mark.parametrize("count", [1, 7])
def test_those_that_climb_together_have_times_of_their_own(count: int) -> None:
    before = time.perf_counter()
    climbs = climb_together(count, lambda: cast(Sandbox, Fake()), "first-exec", 1)
    assert len({id(one.sandbox) for one in climbs}) == count == len(climbs)
    assert all(one.failure is None and one.start >= before for one in climbs)
    released: list[Sandbox] = []
    conclude(climbs, released.append, False)
    assert len(released) == count
