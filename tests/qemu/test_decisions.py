"""What trials of KVM have shown: how long it holds, for what, and that one process tries."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.sandbox.qemu import decisions
from harness.sandbox.qemu.decisions import Decision, Outcome, decide, kept, latest

OF = {"kernel": "6.18", "image": "a"}
ONE_TRIES = """
import sys, time
from pathlib import Path
from harness.sandbox.qemu.decisions import Decision, Outcome, decide

cache, of = Path(sys.argv[1]), {"kernel": "6.18"}

def trial():
    with open(cache / "trials", "a", encoding="utf-8") as file:
        file.write("one\\n")
    time.sleep(1)
    return Decision(Outcome.REFUSED, "no guest answered", "host", time.time(), of)

print(decide(cache, of, sys.argv[2] == "again", trial).reason)
"""


def made(outcome: Outcome, tried: float | None = None) -> Decision:
    return Decision(outcome, "a reason", "host", time.time() if tried is None else tried, OF)


def refuse() -> Decision:
    raise AssertionError("it was not to be tried")


@pytest.mark.parametrize(
    ("outcome", "age_s", "holds"),
    [
        (Outcome.REFUSED, 3540, True),
        (Outcome.REFUSED, 3601, False),
        (Outcome.BUSY, 240, True),
        (Outcome.BUSY, 301, False),
        (Outcome.ANSWERED, 10**9, True),
    ],
)
def test_only_what_speaks_against_kvm_expires(
    tmp_path: Path, outcome: Outcome, age_s: int, holds: bool
) -> None:
    decide(tmp_path, OF, False, lambda: made(outcome, time.time() - age_s))
    assert (kept(tmp_path, OF) is not None) is holds


def test_a_clock_that_was_set_back_prolongs_nothing(tmp_path: Path) -> None:
    decide(tmp_path, OF, False, lambda: made(Outcome.REFUSED, time.time() + 10**6))
    assert kept(tmp_path, OF) is None


def test_another_kernel_or_image_is_tried_anew(tmp_path: Path) -> None:
    decide(tmp_path, OF, False, lambda: made(Outcome.REFUSED))
    assert decide(tmp_path, OF, False, refuse).reason == "a reason"
    assert kept(tmp_path, {**OF, "kernel": "6.19"}) is None
    assert kept(tmp_path, {**OF, "image": "b"}) is None
    assert latest(tmp_path, {"kernel": "6.18"}) and not latest(tmp_path, {"kernel": "6.19"})


def test_what_is_damaged_is_tried_anew(tmp_path: Path) -> None:
    decide(tmp_path, OF, False, lambda: made(Outcome.ANSWERED))
    (file,) = (tmp_path / "accelerators").glob("*.json")
    for text in ("", "[]", "{", json.dumps({"outcome": "perhaps"})):
        file.write_text(text, encoding="utf-8")
        assert kept(tmp_path, OF) is None and latest(tmp_path, OF) is None
    assert decide(tmp_path, OF, False, lambda: made(Outcome.BUSY)).outcome is Outcome.BUSY


def test_again_forgets_what_spoke_against_kvm(tmp_path: Path) -> None:
    decide(tmp_path, OF, False, lambda: made(Outcome.ANSWERED))
    other = {**OF, "image": "b"}
    decide(tmp_path, other, False, lambda: made(Outcome.REFUSED))
    decisions.forget(tmp_path)
    assert kept(tmp_path, OF) and not kept(tmp_path, other)
    assert decide(tmp_path, OF, True, lambda: made(Outcome.REFUSED)).outcome is Outcome.REFUSED


@pytest.mark.parametrize("how", ["once", "again"])
def test_of_two_processes_one_tries(tmp_path: Path, how: str) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_TRIES, tmp_path, how],
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        for _ in range(2)
    ]
    assert [each.communicate()[0] for each in both] == ["no guest answered\n"] * 2
    # Asked for anew, one that begins after the other has ended tries itself.
    assert len((tmp_path / "trials").read_text(encoding="utf-8").split()) in (
        (1,) if how == "once" else (1, 2)
    )
