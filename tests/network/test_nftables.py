from __future__ import annotations

import errno
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

import pytest

from harness.errors import (
    MissingPrivilege,
    PolicyError,
    SandboxGone,
    Unsupported,
    UsageError,
)
from harness.host.identity import NETWORK, NETWORK6
from harness.host.run import Run
from harness.network import nftables
from harness.network.namespace import inside, namespace
from harness.network.netlink import Netlink, NetlinkError
from harness.network.nftables import LONG, MOST, Nftables
from harness.network.policy import Destination, Policy
from harness.network.protocol import Member

ROOT = Path(__file__).parents[2]


@pytest.fixture
def where(run: Run) -> Iterator[Path]:
    with namespace(run.directory, "filter") as path:
        yield path


@pytest.fixture
def engine(where: Path) -> Iterator[Nftables]:
    with inside(where):
        made = Nftables("coppice-test")
    yield made
    made.close()


def member(number: int = 0) -> Member:
    address = NETWORK[2 + number]
    return Member(
        str(number), 100 + number, b"\x02\xc0" + address.packed, address, NETWORK6[2 + number]
    )


def some(count: int, seed: int = 0) -> list[str]:
    numbers = random.Random(seed).sample(range(0x0B000000 + seed, 0x64000000, 8), count)
    return [str(IPv4Address(number)) for number in numbers]


def holds(engine: Nftables, text: str, id: str = "0") -> bool:
    return engine.holds(id, Destination.parse(text))


def listing(where: Path) -> str:
    with inside(where):
        return subprocess.run(
            ["nft", "list", "ruleset"], capture_output=True, text=True, check=True, encoding="utf-8"
        ).stdout


def unnumbered(where: Path) -> str:
    """The listing without the number of the latest change, which is in `now` and in a rule."""
    return re.sub(r"0x[0-9a-f]+( \[invalid type\] != @now| })", r"\1", listing(where))


LENGTHS = (0, 1, LONG - 1, LONG, 3 * LONG, 5, 0, LONG, 0)


def test_growing_and_shrinking_lists(engine: Nftables) -> None:
    engine.admit(member(), Policy())
    before: list[str] = []
    for turn, length in enumerate(LENGTHS):
        new = some(length, turn)
        change = engine.apply("0", Policy.of(new))
        assert (change.added, change.removed) == (len(new), len(before))
        assert change.cuts_established
        assert all(holds(engine, one) for one in new)
        assert not any(holds(engine, one) for one in before)
        before = new


def test_expelling_restores_the_table(engine: Nftables, where: Path) -> None:
    mixed = [*some(LONG), "10.77.0.0/16", "2001:db8::/32", "192.0.2.1 tcp/80", "fd00::1"]
    engine.admit(member(1), Policy.of(mixed, ["198.51.100.7"], ["10.77.0.1"], "allow"))
    engine.expel("1")
    before = unnumbered(where)
    engine.admit(member(), Policy.of(mixed, ["198.51.100.7"], ["10.77.0.1"], "allow"))
    assert unnumbered(where) != before
    engine.expel("0")
    assert unnumbered(where) == before


def test_changes_in_several_places_are_numbered(engine: Nftables) -> None:
    def numbered(*allow: str, default: Literal["deny", "allow"] = "deny") -> bool:
        before = engine._known.number
        engine.apply("0", Policy.of(allow, default=default))
        return engine._known.number != before

    many, others = some(LONG, 1), some(LONG, 2)
    engine.admit(member(), Policy())
    assert not numbered("192.0.2.1", "198.51.100.0/24"), "from an empty policy"
    assert not numbered("192.0.2.2", "198.51.100.0/24"), "one set"
    assert numbered("198.51.100.0/25"), "from one set to another"
    assert numbered("198.51.100.0/25", default="allow")
    assert numbered("198.51.100.0/25")
    assert not numbered("198.51.100.0/25", "2001:db8::1"), "frames of another family"
    assert numbered(*many), "a chain of its own appears"
    assert not numbered(*others), "its rules change atomically"
    assert numbered("192.0.2.1"), "the chain is removed"
    assert not numbered(), "to an empty policy"


def test_long_lists_of_two_shapes_share_a_chain(engine: Nftables) -> None:
    hosts = some(LONG)
    prefixes = [
        f"{one}/30" for one in {str(IPv4Address(int(IPv4Address(o)) & ~3)) for o in some(600, 9)}
    ]
    engine.admit(member(), Policy.of([*hosts, *prefixes]))
    assert holds(engine, hosts[0]) and holds(engine, prefixes[0])
    engine.apply("0", Policy.of(prefixes))
    assert not holds(engine, hosts[0]) and holds(engine, prefixes[0])
    engine.apply("0", Policy())
    assert not holds(engine, prefixes[0])


def test_a_set_of_a_hundred_thousand(engine: Nftables) -> None:
    engine.admit(member(), Policy())
    many = some(100_000)
    engine.apply("0", Policy.of(many))
    assert all(holds(engine, one) for one in many[::9973])
    engine.apply("0", Policy())
    assert not holds(engine, many[0])


def test_too_long_a_list_is_refused_without_effect(engine: Nftables) -> None:
    engine.admit(member(), Policy.of(["192.0.2.1"]))
    with pytest.raises(PolicyError, match="the limit is 131072"):
        engine.apply("0", Policy.of(some(MOST + 1)))
    assert holds(engine, "192.0.2.1")
    engine.apply("0", Policy.of(["192.0.2.2"]))
    assert holds(engine, "192.0.2.2") and not holds(engine, "192.0.2.1")


def test_a_refused_transaction_changes_nothing(
    engine: Nftables, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.admit(member(), Policy.of(["192.0.2.1"]))
    table = engine._table
    broken = [*table.remove("allow4.32", [bytes(8)])]  # an element that does not exist
    monkeypatch.setattr(nftables._Draft, "replace", lambda self, *_: self.messages.extend(broken))
    with pytest.raises(Exception, match="which had no effect"):
        engine.apply("0", Policy.of(["192.0.2.2"]))
    monkeypatch.undo()
    assert holds(engine, "192.0.2.1") and not holds(engine, "192.0.2.2")
    engine.apply("0", Policy.of(["192.0.2.2"]))
    assert holds(engine, "192.0.2.2") and not holds(engine, "192.0.2.1")


def test_a_policy_for_a_detached_sandbox(engine: Nftables) -> None:
    engine.admit(member(), Policy())
    engine.expel("0")
    for call in (lambda: engine.apply("0", Policy()), lambda: engine.expel("0")):
        with pytest.raises(SandboxGone, match="not in the network"):
            call()


def test_admitting_twice_is_refused(engine: Nftables) -> None:
    engine.admit(member(), Policy())
    with pytest.raises(UsageError, match="already"):
        engine.admit(member(), Policy())


def test_concurrent_changes_leave_one_complete_policy(engine: Nftables) -> None:
    engine.admit(member(), Policy())
    lists = [some(LONG + 50, 1), some(LONG + 50, 2)]
    policies = [Policy.of(one) for one in lists]
    failures: list[Exception] = []

    def write(policy: Policy) -> None:
        try:
            for _ in range(50):
                engine.apply("0", policy)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(one,)) for one in policies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    found = [[holds(engine, one) for one in whole] for whole in lists]
    assert sorted(map(all, found)) == [False, True]
    assert sorted(map(any, found)) == [False, True]


def test_no_other_program_or_engine_can_change_the_table(engine: Nftables, where: Path) -> None:
    with inside(where):
        done = subprocess.run(
            ["nft", "flush chain bridge coppice-test from-port"],
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        with pytest.raises(MissingPrivilege):
            Nftables("coppice-test")
    assert done.returncode != 0 and "Operation not permitted" in done.stderr
    engine.admit(member(), Policy.of(["192.0.2.1"]))
    assert holds(engine, "192.0.2.1")


def test_the_table_ends_with_its_owner(where: Path) -> None:
    with inside(where):
        made = Nftables("coppice-test")
    assert "table bridge coppice-test" in listing(where)
    made.close()
    assert "coppice-test" not in listing(where)


def test_missing_privileges_are_reported() -> None:
    code = (
        "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "from harness.errors import MissingPrivilege\n"
        "from harness.network.nftables import Nftables\n"
        "from harness.network.requirements import requirements\n"
        "try:\n    Nftables('coppice-test')\n"
        "except MissingPrivilege as error:\n    print(error.hint)\n"
        "print([need.satisfied for need in requirements()], requirements()[0].remedy)\n"
    )
    # Import before dropping privileges: the checkout may be readable to root only.
    head = "import harness.network.nftables, harness.network.requirements\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.stdout.count("run it") == 2 and "[False]" in done.stdout, done.stderr


@pytest.mark.parametrize("number", [errno.EPROTONOSUPPORT, errno.EOPNOTSUPP])
def test_a_kernel_without_nf_tables_is_unsupported(
    number: int, where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal is faked, at the socket or at the table: the kernels here have nf_tables."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    if number == errno.EPROTONOSUPPORT:
        monkeypatch.setattr(socket, "socket", refuse)
    else:
        said = NetlinkError(number, "")
        monkeypatch.setattr(Netlink, "send", lambda *_: (_ for _ in ()).throw(said))
    with pytest.raises(Unsupported), inside(where):
        Nftables("coppice-test")


def test_a_json_policy_reaches_the_kernel(engine: Nftables) -> None:
    text = json.dumps({"allow": ["192.0.2.1 tcp/443", "2001:db8::/32"]})
    engine.admit(member(), Policy.from_json(text))
    assert holds(engine, "192.0.2.1 tcp/443") and holds(engine, "2001:db8::/32")
    assert not holds(engine, "192.0.2.1 tcp/80") and not holds(engine, "192.0.2.1")
