"""The network rigs: when they skip, and whether wrong packets are counted as wrong."""

from __future__ import annotations

import array
import itertools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from harness.errors import UsageError
from harness.procedures.datagrams import Traffic
from harness.procedures.peers import build
from harness.rig.discovery import discover, table

ROOT = Path(__file__).parents[2]
RIGS = ("net-rtt", "net-throughput", "policy-update", "policy-enforcement", "policy-churn")


@pytest.fixture(scope="module")
def enforcement() -> ModuleType:
    discover()
    return sys.modules["rigs.test_policy_enforcement"]


@pytest.mark.parametrize("id", RIGS)
def test_every_rig_has_its_task_and_says_what_it_needs(id: str) -> None:
    found = discover().found
    assert f"bench:{id}" in {task.name for task in table(found)}
    info = found[id].info
    assert [need.what for need in info.requirements()]


@pytest.mark.parametrize(
    ("id", "option"),
    [("policy-churn", "rule-sets"), ("policy-update", "others"), ("policy-enforcement", "rate")],
)
def test_a_slow_host_is_asked_for_less_by_an_option_that_makes_sense(id: str, option: str) -> None:
    info = discover().found[id].info
    assert option in info.options
    info.check({option: "10"})
    for none in ("x", "-1", "1.5"):
        with pytest.raises(UsageError, match=f"--{option} {none}"):
            info.check({option: none})
    if option == "rate":
        with pytest.raises(UsageError, match="--rate 1,2"):
            info.check({option: "1,2"})


def test_a_delayed_flood_sends_no_burst(tmp_path: Path) -> None:
    flood, rate, sent = build("flood", tmp_path), 500, tmp_path / "sent"
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        ports = []
        for line in (one, two):
            line.bind(("127.0.0.1", 0))
            line.settimeout(120)
            ports.append(str(line.getsockname()[1]))
        process = subprocess.Popen(
            [str(flood), "127.0.0.1", str(sent), str(rate), *ports],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        with process:
            assert process.stdout and process.stdin
            assert process.stdout.readline() == b"ready\n"
            for _ in range(50):
                one.recv(100)
                two.recv(100)
            process.stdin.close()
            assert process.wait(120) == 0
    times = array.array("Q", sent.read_bytes())
    assert len(times) > 2
    assert min(b - a for a, b in itertools.pairwise(times)) >= 1_000_000_000 // rate


@pytest.mark.parametrize(
    ("rig", "missing", "remedy"),
    [
        ("test_net_rtt.py", "netperf", "apt-get install netperf"),
        ("test_net_throughput.py", "iperf3", "apt-get install iperf3"),
    ],
)
def test_without_its_tool_a_rig_is_skipped_with_the_command_that_helps(
    rig: str, missing: str, remedy: str, tmp_path: Path
) -> None:
    for directory in os.environ["PATH"].split(":"):
        for program in Path(directory).iterdir() if Path(directory).is_dir() else ():
            link = tmp_path / program.name
            if program.name != missing and not link.exists():
                link.symlink_to(program)
    assert shutil.which(missing), "otherwise the test proves nothing"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", f"rigs/{rig}", "-rs", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout
    assert f"{missing} is not installed" in done.stdout and remedy in done.stdout


def test_a_policy_stays_in_force_for_what_is_sent_at_a_rate(enforcement: ModuleType) -> None:
    case = enforcement.Case(2, enforcement.ONE_STEP, 10)
    assert case.in_force_s == enforcement.IN_FORCE_S and "rate" not in case.dimensions
    slow = enforcement.Case(2, enforcement.ONE_STEP, 10, 200)
    assert slow.in_force_s * slow.rate == 4 * len(enforcement.PORTS)
    assert slow.dimensions["rate"] == 200


STEP_NS = 10


def traffic(enforcement: ModuleType, arrived: Sequence[bool]) -> Traffic:
    times = array.array("Q", (STEP_NS * number for number in range(len(arrived))))
    return Traffic(times, bytearray(arrived), enforcement.PORTS)


def changes(enforcement: ModuleType, *returned: int) -> list[object]:
    """Atomic changes, first to the second policy, then back."""
    made = []
    for turn, number in enumerate(returned):
        ports = (enforcement.SECOND, enforcement.FIRST)
        allowed, denied = ports if turn % 2 == 0 else ports[::-1]
        end = STEP_NS * number
        made.append(enforcement.Change(end - STEP_NS, end, allowed, denied))
    return made


@pytest.fixture
def ideal(enforcement: ModuleType) -> Iterator[list[bool]]:
    """What arrives of 400 packets when the policy changes atomically at 100, 200 and 300."""
    found = []
    for number in range(400):
        port = enforcement.PORTS[number % 4]
        second = 100 <= number < 200 or number >= 300
        allowed = enforcement.SECOND if second else enforcement.FIRST
        found.append(port in (enforcement.KEPT, allowed))
    yield found


def judged(enforcement: ModuleType, arrived: Sequence[bool]) -> tuple[int, int]:
    found = list(
        enforcement.verdicts(traffic(enforcement, arrived), changes(enforcement, 100, 200, 300))
    )
    assert len(found) == 1
    return found[0].leaked, found[0].torn


def test_an_atomic_change_has_no_leaked_and_no_torn_packet(
    enforcement: ModuleType, ideal: list[bool]
) -> None:
    assert judged(enforcement, ideal) == (0, 0)


@pytest.mark.parametrize(
    ("number", "leaked", "torn"),
    [
        (196, 0, 1),  # kept, lost before the change
        (204, 0, 1),  # kept, lost after it
        (207, 0, 1),  # never allowed, arrived
        (202, 1, 1),  # the second port, denied from 200 on, arrived after the first port's 201
        (205, 0, 1),  # the first port, allowed from 200 on, lost after 201 had arrived
    ],
)
def test_each_wrong_packet_is_seen(
    number: int, leaked: int, torn: int, enforcement: ModuleType, ideal: list[bool]
) -> None:
    ideal[number] = not ideal[number]
    assert judged(enforcement, ideal) == (leaked, torn)


def test_what_is_being_sent_when_the_next_call_begins_is_either_policys(
    enforcement: ModuleType, ideal: list[bool]
) -> None:
    for number, found in ((298, (0, 0)), (297, (0, 1))):  # the next call begins at 299
        arrived = [not one if at == number else one for at, one in enumerate(ideal)]
        assert judged(enforcement, arrived) == found
