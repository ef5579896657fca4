"""How long each mechanism takes to replace the list of addresses that a sandbox may reach.

Every mechanism gets two disjoint lists of the same length and replaces the first by the second and
back, with no other sandbox installed and with a thousand. Before anything is timed, each must prove
that the replacement took effect. The mechanisms are visited in turn, forwards and backwards. `n` of
0 is an empty transaction.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import CoppiceError
from harness.host.identity import NETWORK, NETWORK6
from harness.host.process import need
from harness.host.run import Run
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated, without_collector
from harness.measure.collector import Collector
from harness.measure.record import Clock, Facts
from harness.network.namespace import inside, namespace
from harness.network.policy import Destination, Policy
from harness.network.protocol import Member
from harness.procedures import ebpf_policies, packet_filters
from harness.procedures.libnftables import Libnftables
from harness.procedures.packet_filters import PacketFilter
from harness.rig.info import RigInfo, listed
from harness.rig.recorder import RigRun

ALL_SIZES = (0, 1, 10, 100, 1000, 10000)
SIZES = {"smoke": ALL_SIZES[:-1], "quick": ALL_SIZES, "full": ALL_SIZES}
OTHERS = (0, 1000)


def neighbours(options: Mapping[str, str]) -> Sequence[int]:
    """The numbers of other sandboxes."""
    return listed(options, "others", OTHERS, least=0)


RIG = RigInfo(
    id="policy-update",
    title="Replacing the addresses of a policy",
    claims=("coppice-policy-update",),
    tools=packet_filters.TOOLS,
    requirements=packet_filters.requirements,
    check=neighbours,
    options={"others": "numbers of other sandboxes, such as 0,10 on a slow host"},
    measured_alike=(
        "75a72dab27af29fc0ccb4b61c22ecbdbfdab0e5ae880f33b080d1cf2c2936a36",
        "9d96f11b7b32b637eb8f478ebeb37896cefea47caedd50d1203245e11ba96944",
        "3c0df00e5cfff55e7264c10290c3fca48be477541e90e5d926a2b5408994d7cb",
        "12965e362ebb600763126e634a77c95188134b4eaf853601d82b0a3ead84450a",
        "075155a39d864fb19b8377f9e3db19ee13c1dc4ae16eeeb027d7de8ae2030d0c",
    ),
)
EACH_OTHER_HAS = 4
"""Addresses that every other sandbox may reach."""
ROUNDS = {"smoke": 8, "quick": 16, "full": 400}
PASSES = 4
FEW_FROM, FEWER = 10000, 4
"""From lists of this length on, rounds are divided by this."""
SUBJECT = 0
CLAIMED = {**packet_filters.FACTS, "n": 1000, "others": 0}
SETTLE_S = 0.002
"""Between two updates: the kernel frees what the last one removed."""


def addresses(count: int, seed: int) -> list[str]:
    """Distinct public addresses; lists of different seeds are disjoint."""
    numbers = random.Random(seed).sample(range(0x0B000000 + seed, 0x64000000, 16), count)
    return [str(IPv4Address(number)) for number in numbers]


class Mechanism(Protocol):
    """A way of replacing a list; `ready` prepares the lists as far as its real callers would."""

    mechanism: str
    transport: str

    def ready(self, n: int, lists: Sequence[Sequence[str]]) -> None:
        """Prepare two lists of `n` addresses, and install the first."""

    def replace(self, turn: int) -> None:
        """Replace the list of the last turn by that of this turn. Timed."""

    def holds(self, address: str) -> bool: ...


class ByCubenet:
    """Cubenet, given a policy object or its JSON text."""

    mechanism = str(packet_filters.FACTS["mechanism"])

    def __init__(self, filter: PacketFilter, others: int, *, text: bool) -> None:
        self.transport = str(packet_filters.FACTS["transport"]) + (" from JSON" if text else "")
        self._engine = filter.engine
        self._subject = f"{others}{'t' if text else 'd'}{SUBJECT}"
        for number in range(others + 1):
            address, address6 = NETWORK[2 + number], NETWORK6[2 + number]
            id = f"{self._subject[:-1]}{number}"
            mac = b"\2\xc0" + address.packed
            member = Member(id, 1000 + number, mac, address, address6)
            self._engine.admit(member, Policy.of(addresses(EACH_OTHER_HAS, 2 + number)))
        self._text = text

    def ready(self, n: int, lists: Sequence[Sequence[str]]) -> None:
        policies = [Policy.of(addresses) for addresses in lists]
        self._texts = [json.dumps(policy.to_json()) for policy in policies]
        self._policies = policies
        for policy in policies:
            assert sum(map(len, policy.plan.values())) == n
        self._engine.apply(self._subject, policies[0])

    def replace(self, turn: int) -> None:
        which = turn % 2
        new = Policy.from_json(self._texts[which]) if self._text else self._policies[which]
        if new.allow:
            self._engine.apply(self._subject, new)
        else:
            self._engine.empty_change()

    def holds(self, address: str) -> bool:
        return self._engine.holds(self._subject, Destination.parse(address))


class ByText(ABC):
    """A separate set for each sandbox, changed by nft commands: text is built from the list."""

    mechanism = "nftables"

    def __init__(self, others: int) -> None:
        self._library = Libnftables()
        table = ["add table inet compared"]
        for number in range(others + 1):
            table.append(f"add set inet compared s{number} {{ type ipv4_addr; }}")
            if number != SUBJECT:
                few = ", ".join(addresses(EACH_OTHER_HAS, 2 + number))
                table.append(f"add element inet compared s{number} {{ {few} }}")
        self._library.run("\n".join(table).encode())

    def ready(self, n: int, lists: Sequence[Sequence[str]]) -> None:
        self._lists = lists
        self.replace(0)

    @abstractmethod
    def replace(self, turn: int) -> None: ...

    def _command(self, turn: int) -> bytes:
        new = self._lists[turn % 2]
        if not new:
            return b""
        text = f"flush set inet compared s{SUBJECT}\n"
        text += f"add element inet compared s{SUBJECT} {{ {', '.join(new)} }}\n"
        return text.encode()

    def holds(self, address: str) -> bool:
        try:
            self._library.run(f"get element inet compared s{SUBJECT} {{ {address} }}".encode())
        except CoppiceError:
            return False
        return True


class ByLibrary(ByText):
    transport = "libnftables"

    def replace(self, turn: int) -> None:
        self._library.run(self._command(turn))


class ByProgram(ByText):
    transport = "nft program"

    def __init__(self, others: int) -> None:
        super().__init__(others)
        self._nft = need("nft")

    def replace(self, turn: int) -> None:
        subprocess.run([self._nft, "-f", "-"], input=self._command(turn), check=True)


class ByTrie:
    """An eBPF LPM trie changed in place by two batches: not atomic for concurrent readers."""

    mechanism = "ebpf-lpm"
    transport = "batch in place"

    def __init__(self, others: int) -> None:
        self._tries = ebpf_policies.Tries()
        for number in range(others + 1):
            self._tries.add(number, _keys(addresses(EACH_OTHER_HAS, 2 + number)))

    def ready(self, n: int, lists: Sequence[Sequence[str]]) -> None:
        self._keys = [_keys(addresses) for addresses in lists]
        self._tries.swap(SUBJECT, self._keys[0])

    def replace(self, turn: int) -> None:
        self._tries.update(SUBJECT, self._keys[(turn + 1) % 2], self._keys[turn % 2])

    def holds(self, address: str) -> bool:
        return self._tries.holds(SUBJECT, IPv4Address(address).packed)


class BySwap(ByTrie):
    transport = "swap"

    def replace(self, turn: int) -> None:
        self._tries.swap(SUBJECT, self._keys[turn % 2])


def _keys(texts: Sequence[str]) -> bytes:
    return ebpf_policies.pack([IPv4Address(text).packed for text in texts])


@dataclass(frozen=True)
class Contender:
    """A mechanism with lists of one length and a number of other sandboxes.

    `inside` enters the network namespace that holds its rules only.
    """

    mechanism: Mechanism
    n: int
    others: int
    lists: Sequence[Sequence[str]]
    inside: Callable[[], AbstractContextManager[None]]

    @property
    def dimensions(self) -> Facts:
        return {
            "mechanism": self.mechanism.mechanism,
            "transport": self.mechanism.transport,
            "n": self.n,
            "others": self.others,
        }

    def prove(self) -> None:
        """Check that replacing takes effect, before it is timed."""
        with self.inside():
            self.mechanism.ready(self.n, self.lists)
            for turn in (1, 0):
                self.mechanism.replace(turn)
                for number, addresses in enumerate(self.lists):
                    for address in {*addresses[:1], *addresses[-1:]}:
                        holds = self.mechanism.holds(address)
                        assert holds == (number == turn), self.dimensions

    def times(self, rounds: int) -> list[float]:
        """Seconds of each replacement."""
        times = []
        with self.inside():
            self.mechanism.ready(self.n, self.lists)
            for turn in range(1, rounds + 1):
                time.sleep(SETTLE_S)
                start = time.perf_counter()
                self.mechanism.replace(turn)
                times.append(time.perf_counter() - start)
        return times


OTHER_MECHANISMS: Sequence[Callable[[int], Mechanism]] = (
    () if packet_filters.FREEBSD else (ByLibrary, ByProgram, ByTrie, BySwap)
)
"""The mechanisms of this operating system that cubenet is compared with."""


def contenders(
    run: Run, stack: ExitStack, neighbours: Sequence[int], sizes: Sequence[int]
) -> list[Contender]:
    """Every mechanism with every number of other sandboxes and every size."""
    lists = {n: [addresses(n, seed) for seed in (0, 1)] for n in sizes}
    found = []
    for text, others in itertools.product((False, True), neighbours):
        filter = stack.enter_context(packet_filters.packet_filter(run, "compared-with"))
        with filter.inside():
            mechanism: Mechanism = ByCubenet(filter, others, text=text)
        found += [Contender(mechanism, n, others, lists[n], filter.inside) for n in sizes]
    for make, others in itertools.product(OTHER_MECHANISMS, neighbours):
        where = stack.enter_context(namespace(run.directory, "policy-update"))
        with inside(where):
            mechanism = make(others)
        enter = functools.partial(inside, where)
        found += [Contender(mechanism, n, others, lists[n], enter) for n in sizes]
    return found


@pytest.mark.benchmark(timer=STOPWATCH)
def test_policy_update(
    benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str
) -> None:
    into = Collector()
    with ExitStack() as stack:
        found = contenders(run, stack, neighbours(rig_run.options), SIZES[profile])
        for contender in found:
            contender.prove()
        rig_run.prepared((), None, RIG.tools)
        rig_run.begin()
        stack.enter_context(without_collector())
        for number in range(PASSES):
            for contender in found if number % 2 == 0 else reversed(found):
                rounds = ROUNDS[profile] if contender.n < FEW_FROM else ROUNDS[profile] // FEWER
                times = contender.times(max(rounds // PASSES, 2))
                into.add("policy-update", "s", times, **contender.dimensions)
        rig_run.end()
    series = into.series
    record = rig_run.write(RIG, Path(__file__), series, clock())
    claimed = next((made for made in series if made.dimensions == CLAIMED), series[-1])
    rig_run.deliver(benchmark, claimed, record)


def clock() -> Clock:
    return calibrated(
        "policy-call",
        "the call that replaces the list",
        {"policy-update": "its return: from then on the new list is enforced"},
    )
