"""The step between two policies in pf: exactly what both allow, in the right order."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from harness.errors import CommandFailed
from harness.host.run import Run
from harness.network.pf import Pf
from harness.network.pf_rules import between, ruleset
from harness.network.policy import Policy
from harness.network.protocol import Member
from tests.freebsd.documented import MARK, host, identity, run_in
from tests.freebsd.hosts import Answer
from tests.freebsd.pf_model import Packet, passes

WHO = identity()
MEMBER = Member(WHO.id, 1, WHO.mac_bytes, WHO.address, WHO.address6)
ANCHOR = f"coppice/coppice-{MARK}-000000000005"
LOAD = f"pfctl -a {ANCHOR} -f -"
REPLACE = f"pfctl -a {ANCHOR} -t allow -T replace -f -"
KILLS = ["pfctl -k 10.77.0.5", "pfctl -k fd77:c0bb:1ce::a4d:5"]
PLACES = ["192.0.2.1", "192.0.2.0/30", "192.0.2.0/24", "198.51.100.7", "10.1.0.0/16", "2001:db8::1",
          "2001:db8::/64"]  # fmt: skip
SERVICES = ["", " tcp/80", " tcp/443", " udp/80"]
TARGETS = ["192.0.2.1", "192.0.2.2", "192.0.2.9", "198.51.100.7", "10.1.2.3", "203.0.113.1"]
TARGETS6 = ["2001:db8::1", "2001:db8::9", "2001:db8:1::1"]
SENT = (("tcp", 80), ("tcp", 443), ("tcp", 53), ("udp", 80), ("udp", 53), ("icmp", 0))
PACKETS = [
    Packet(str(source), to, protocol, port)
    for source, targets in (("10.77.0.5", TARGETS), ("fd77:c0bb:1ce::a4d:5", TARGETS6))
    for to in targets
    for protocol, port in SENT
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_in(tmp_path)


def drawn(draw: random.Random) -> Policy:
    """A random policy over few places, so that the lists of two overlap often."""

    def some(most: int) -> list[str]:
        return [draw.choice(PLACES) + draw.choice(SERVICES) for _ in range(draw.randint(0, most))]

    dns = draw.sample(["192.0.2.1", "198.51.100.7"], draw.randint(0, 1))
    return Policy.of(some(4), some(3), dns, draw.choice(["deny", "deny", "allow"]))


def test_the_step_between_allows_what_both_policies_allow() -> None:
    draw = random.Random(20)
    differs = 0
    for _ in range(150):
        before, after = drawn(draw), drawn(draw)
        old, new = (ruleset(MEMBER, "epair1a", policy) for policy in (before, after))
        step = between(MEMBER, "epair1a", before, after)
        for packet in PACKETS:
            both = passes(old, packet) and passes(new, packet)
            assert passes(step, packet) == both, (packet, before, after, step.text())
            differs += passes(old, packet) != passes(new, packet)
    assert differs > 500, "the policies hardly differ: this shows nothing"


def test_one_changed_list_is_replaced_by_what_lies_within_both() -> None:
    draw = random.Random(7)
    for _ in range(100):
        lists = [draw.sample(PLACES, draw.randint(1, 4)) for _ in range(2)]
        before, after = (Policy.of(["1.1.1.1 tcp/80", *list]) for list in lists)
        old, new = (ruleset(MEMBER, "epair1a", policy) for policy in (before, after))
        step = between(MEMBER, "epair1a", before, after)
        assert step.rules == old.rules == new.rules
        for packet in PACKETS:
            assert passes(step, packet) == (passes(old, packet) and passes(new, packet))


def test_a_forged_source_is_blocked_in_the_step_too() -> None:
    step = between(MEMBER, "epair1a", Policy.of(default="allow"), Policy.of(["192.0.2.1 udp/80"]))
    assert passes(step, Packet("10.77.0.5", "192.0.2.1", "udp", 80))
    assert not passes(step, Packet("10.77.0.6", "192.0.2.1", "udp", 80))


def test_a_long_list_that_stays_is_not_evaluated_twice() -> None:
    fill = [f"192.0.2.1 tcp/{1000 + number}" for number in range(500)]
    before, after = (Policy.of([f"192.0.2.1 udp/{port}", *fill]) for port in (1, 2))
    step = between(MEMBER, "epair1a", before, after)
    assert len(step.rules.splitlines()) < 520
    assert all(len(name) < 32 for name in step.tables), "pf's own limit"


def test_nothing_new_is_allowed_before_the_old_states_are_killed(run: Run) -> None:
    there = host()
    pf = Pf(there, run, lambda number: f"epair{number}a")
    pf.admit(MEMBER, Policy.of(["192.0.2.1", "192.0.2.2"]))
    begun = len(there.log)
    pf.apply(WHO.id, Policy.of(["192.0.2.2", "192.0.2.3"]))
    assert there.log[begun:] == [REPLACE, *KILLS, REPLACE]
    assert there.stdins[REPLACE] == "192.0.2.2\n192.0.2.3\n"
    begun = len(there.log)
    pf.apply(WHO.id, Policy.of(["192.0.2.2 tcp/80", "192.0.2.3"]))
    steps = [line for line in there.log[begun:] if "-s labels" not in line]
    assert steps == [LOAD, *KILLS, LOAD]
    assert "tagged" not in there.stdins[LOAD], "the last one is the new policy alone"


def test_a_change_that_fails_half_way_leaves_the_old_policy(run: Run) -> None:
    answers = iter([Answer(), Answer(), Answer("", 1, "pfctl: DIOCXCOMMIT: refused"), Answer()])
    loaded: list[str] = []

    def load(found: object) -> Answer:
        loaded.append(there.stdins[LOAD])
        return next(answers)

    there = host((rf"pfctl -a {ANCHOR} -f -", load))
    pf = Pf(there, run, lambda number: f"epair{number}a")
    pf.admit(MEMBER, Policy.of(["192.0.2.1"]))
    with pytest.raises(CommandFailed, match="refused"):
        pf.apply(WHO.id, Policy.of(["192.0.2.1 tcp/80"]))
    assert len(loaded) == 4 and loaded[3] == loaded[0]
