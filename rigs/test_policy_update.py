"""How long it takes to replace a sandbox's addresses, in one step, by each way there is.

Every mechanism has two lists of the same length with nothing in common, and replaces one by the
other: alone, and beside a thousand other sandboxes. Each is first made to show that it did. They
take turns, forward and back. `n` of 0 is a transaction in which nothing happens.
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

SIZES = (0, 1, 10, 100, 1000, 10000)
OTHERS = (0, 1000)


def neighbours(options: Mapping[str, str]) -> Sequence[int]:
    """Beside how many other sandboxes."""
    return listed(options, "others", OTHERS, least=0)


RIG = RigInfo(
    id="policy-update",
    title="Replacing the addresses of a policy",
    claims=("coppice-policy-update",),
    tools=packet_filters.TOOLS,
    requirements=packet_filters.requirements,
    check=neighbours,
    options={"others": "sandboxes beside, such as 0,10, where the host is slow (policy-update)"},
    measured_alike=(
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
"""Of the longest lists so many times fewer."""
SUBJECT = 0
CLAIMED = {**packet_filters.FACTS, "n": 1000, "others": 0}
SETTLE_S = 0.002
"""Between two updates: the kernel frees what the last one took out."""


def addresses(count: int, seed: int) -> list[str]:
    """Addresses outside of every private range; those of other seeds are others."""
    numbers = random.Random(seed).sample(range(0x0B000000 + seed, 0x64000000, 16), count)
    return [str(IPv4Address(number)) for number in numbers]


class Mechanism(Protocol):
    """One way of replacing; `lists` are made ready beforehand, as far as its callers would."""

    mechanism: str
    transport: str

    def ready(self, n: int, lists: Sequence[Sequence[str]]) -> None:
        """Make two lists of `n` addresses ready, and install the first."""

    def replace(self, turn: int) -> None:
        """Replace the list of the last turn by that of this one: what is timed."""

    def holds(self, address: str) -> bool: ...


class ByCubenet:
    """Cubenet: a policy that is there as data, or as the text of its JSON."""

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
        policies = [Policy.of(one) for one in lists]
        self._texts = [json.dumps(one.to_json()) for one in policies]
        self._policies = policies
        for one in policies:
            assert sum(map(len, one.plan.values())) == n
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
    """A set of its own for each sandbox, by commands of nftables: a list of text is joined."""

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
    """A trie of eBPF's, changed in place: two batches, and not one step to who reads meanwhile."""

    mechanism = "ebpf-lpm"
    transport = "batch in place"

    def __init__(self, others: int) -> None:
        self._tries = ebpf_policies.Tries()
        for number in range(others + 1):
            self._tries.add(number, _keys(addresses(EACH_OTHER_HAS, 2 + number)))

    def ready(self, n: int, lists: Sequence[Sequence[str]]) -> None:
        self._keys = [_keys(one) for one in lists]
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
    return ebpf_policies.pack([IPv4Address(one).packed for one in texts])


@dataclass(frozen=True)
class Contender:
    """A mechanism beside so many other sandboxes, with lists of one length.

    `inside` is where its rules are: none sees another's.
    """

    way: Mechanism
    n: int
    others: int
    lists: Sequence[Sequence[str]]
    inside: Callable[[], AbstractContextManager[None]]

    @property
    def dimensions(self) -> Facts:
        return {
            "mechanism": self.way.mechanism,
            "transport": self.way.transport,
            "n": self.n,
            "others": self.others,
        }

    def prove(self) -> None:
        """Nothing is timed before it has been seen to replace."""
        with self.inside():
            self.way.ready(self.n, self.lists)
            for turn in (1, 0):
                self.way.replace(turn)
                for other, one in enumerate(self.lists):
                    for address in {*one[:1], *one[-1:]}:
                        assert self.way.holds(address) == (other == turn), self.dimensions

    def times(self, rounds: int) -> list[float]:
        """Seconds of each replacement."""
        found = []
        with self.inside():
            self.way.ready(self.n, self.lists)
            for turn in range(1, rounds + 1):
                time.sleep(SETTLE_S)
                start = time.perf_counter()
                self.way.replace(turn)
                found.append(time.perf_counter() - start)
        return found


BESIDE: Sequence[Callable[[int], Mechanism]] = (
    () if packet_filters.FREEBSD else (ByLibrary, ByProgram, ByTrie, BySwap)
)
"""The other ways that this system has."""


def contenders(run: Run, stack: ExitStack, beside: Sequence[int]) -> list[Contender]:
    """Every mechanism, neighbourhood and size."""
    lists = {n: [addresses(n, seed) for seed in (0, 1)] for n in SIZES}
    found = []
    for text, others in itertools.product((False, True), beside):
        filter = stack.enter_context(packet_filters.packet_filter(run, "compared-with"))
        with filter.inside():
            way: Mechanism = ByCubenet(filter, others, text=text)
        found += [Contender(way, n, others, lists[n], filter.inside) for n in SIZES]
    for make, others in itertools.product(BESIDE, beside):
        where = stack.enter_context(namespace(run.directory, "policy-update"))
        with inside(where):
            way = make(others)
        found += [
            Contender(way, n, others, lists[n], functools.partial(inside, where)) for n in SIZES
        ]
    return found


@pytest.mark.benchmark(timer=STOPWATCH)
def test_policy_update(
    benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str
) -> None:
    asked = rig_run.option("others") or ""
    into = Collector()
    with ExitStack() as stack:
        found = contenders(run, stack, neighbours({"others": asked}))
        for one in found:
            one.prove()
        rig_run.prepared((), None, RIG.tools)
        rig_run.begin()
        stack.enter_context(without_collector())
        for number in range(PASSES):
            for one in found if number % 2 == 0 else reversed(found):
                rounds = ROUNDS[profile] if one.n < FEW_FROM else ROUNDS[profile] // FEWER
                times = one.times(max(rounds // PASSES, 2))
                into.add("policy-update", "s", times, **one.dimensions)
        rig_run.end()
    series = into.series
    record = rig_run.write(RIG, Path(__file__), series, clock())
    claimed = next((one for one in series if one.dimensions == CLAIMED), series[-1])
    rig_run.deliver(benchmark, claimed, record)


def clock() -> Clock:
    return calibrated(
        "policy-call",
        "the call that replaces the list",
        {"policy-update": "its return: from then on the new list is obeyed"},
    )
