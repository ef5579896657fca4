"""The cost of adding and of removing one sandbox's rules when N other rule sets are installed.

For each N a packet filter holds N rule sets (nf_tables in separate namespaces; pf, of which a host
has one, holds all of them together); another one is added and removed repeatedly. The sizes are
visited in turn, forwards and backwards. No sandbox is attached: a bridge has at most 1,023 ports.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.host.identity import NETWORK, NETWORK6
from harness.host.run import Run
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated, without_collector
from harness.measure.collector import Collector
from harness.measure.record import Clock, Facts
from harness.network.policy import Policy
from harness.network.protocol import Member
from harness.procedures import packet_filters
from harness.rig.info import RigInfo, listed
from harness.rig.recorder import RigRun

SIZES = (1, 10, 100, 1000, 2000)


def sizes(options: Mapping[str, str]) -> Sequence[int]:
    """The numbers of other rule sets."""
    return listed(options, "rule-sets", SIZES)


RIG = RigInfo(
    id="policy-churn",
    title="Rule sets of sandboxes added and removed",
    claims=("coppice-policy-anchor",),
    requirements=packet_filters.requirements,
    check=sizes,
    options={"rule-sets": "numbers of other rule sets, such as 10,100 on a slow host"},
    measured_alike=(
        "b110c66c6a9bbee48d3c42fa6b8fc2ee95c47abeb1f0f2e86e26f00d8ab9ba94",
        "53d227a6eb1b1e3f4e2372ccf1c7cd6bcfd858e1996d5d2a4f15de22df9a9656",
        "2df107696086675c5db889716da1f56af95b57a41e94e9e5cf3a193a28385fe0",
        "977196d24b43f79ea42dc32e9acd3e556fae180a3d710a6fdf9addbeaf19428a",
        "ac41b87177e18891bf6343fba6f2c72cd306e7e00b6b89765aa1ce4f81cbac52",
    ),
)
PASSES = {"smoke": 2, "quick": 20, "full": 100}
TURNS = 5
"""Additions and removals in each pass."""
CLAIMED = 1000


def member(number: int, size: int) -> Member:
    """A sandbox as cubenet describes it to a filter; ids differ between sizes."""
    address, address6 = NETWORK[2 + number], NETWORK6[2 + number]
    return Member(f"{size}x{number}", 100 + number, b"\x02\xc0" + address.packed, address, address6)


def policy(number: int) -> Policy:
    """A typical policy: peers, a service, a few prefixes, a resolver, both address families."""
    peers = [str(NETWORK[2 + (number + step) % 4000]) for step in (1, 2, 3)]
    return Policy.of(
        [*peers, f"{NETWORK[1]} tcp/443", "192.0.2.0/24", "2001:db8::/32"],
        ["198.51.100.0/24"],
        [str(NETWORK[1])],
    )


class FilledFilter:
    """A packet filter with N rule sets."""

    def __init__(self, n: int, run: Run, stack: ExitStack) -> None:
        self.n = n
        self._engine = stack.enter_context(packet_filters.packet_filter(run, "churn")).engine
        for number in range(n):
            self._engine.admit(member(number, n), policy(number))
        self._next = member(n, n)

    def add_and_remove(self) -> tuple[float, float]:
        """Seconds to add another rule set, and to remove it."""
        new = policy(self.n)
        assert new.plan  # computed beforehand, as for any policy passed to cubenet
        start = time.perf_counter()
        self._engine.admit(self._next, new)
        added = time.perf_counter() - start
        start = time.perf_counter()
        self._engine.expel(self._next.id)
        return added, time.perf_counter() - start


@pytest.mark.benchmark(timer=STOPWATCH)
def test_policy_churn(benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str) -> None:
    into = Collector()
    with ExitStack() as stack:
        filters = [FilledFilter(n, run, stack) for n in sizes(rig_run.options)]
        for filled in filters:
            filled.add_and_remove()
        rig_run.prepared((), None, ())
        rig_run.begin()
        stack.enter_context(without_collector())
        for number in range(PASSES[profile]):
            for filled in filters if number % 2 == 0 else reversed(filters):
                dimensions: Facts = {**packet_filters.FACTS, "n": filled.n}
                for added, removed in [filled.add_and_remove() for _ in range(TURNS)]:
                    into.add("rule-add", "s", [added], **dimensions)
                    into.add("rule-remove", "s", [removed], **dimensions)
        rig_run.end()
    series = into.series
    record = rig_run.write(RIG, Path(__file__), series, clock())
    adds = [found for found in series if found.metric == "rule-add"]
    claimed = next((found for found in adds if found.dimensions["n"] == CLAIMED), adds[-1])
    rig_run.deliver(benchmark, claimed, record)


def clock() -> Clock:
    return calibrated(
        "policy-call",
        "the call that adds or removes a sandbox's rules",
        {
            "rule-add": "its return: the sandbox can send what its policy allows",
            "rule-remove": "its return: no packet from the sandbox passes",
        },
    )
