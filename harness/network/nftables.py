"""Policies in nf_tables via netlink: one transaction per change, no program, no text.

Short lists share one set per shape (see `ruleset`): adding a sandbox adds elements. A long list is
a set of its own, which the kernel drops as a whole: removing a thousand elements one by one from a
shared set would double the time of a replacement. Whenever a rule changes the kernel validates all
reachable chains, so only sandboxes with long lists have chains of their own.
"""

from __future__ import annotations

import errno
import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from harness.errors import (
    CoppiceError,
    MissingPrivilege,
    NotEnoughMemory,
    PolicyError,
    Unsupported,
    UsageError,
)
from harness.network import nft, ruleset
from harness.network.netlink import NETFILTER, Netlink, NetlinkError
from harness.network.nft import Table
from harness.network.policy import Destination, Policy, Shape
from harness.network.protocol import Change, Counters, Member, member_of
from harness.network.ruleset import Role

LONG = 256
"""From this number of entries of one shape on, they are a set of the sandbox's own."""
MOST = 1 << 17
"""Maximum number of entries of one shape in a policy."""


class Nftables:
    """Implements `harness.network.protocol.PolicyEngine` in the bridge family.

    Create it in the network namespace of its bridge. This object's socket owns the table: no other
    program can change it, and the kernel removes it when this process ends.
    """

    def __init__(self, name: str) -> None:
        self._netlink = Netlink(NETFILTER)
        self._table = Table(nft.BRIDGE, name)
        self._lock = threading.Lock()
        self._members: dict[str, Member] = {}
        self._policies: dict[str, Policy] = {}
        self._known = _Known(frozenset(), frozenset(), 0)
        self._own_sets: dict[str, Mapping[Shape, _OwnSet]] = {}
        self._generation = itertools.count()
        try:
            self._commit(list(ruleset.skeleton(self._table)))
        except BaseException:
            self._netlink.close()
            raise

    def admit(self, member: Member, policy: Policy) -> Change:
        with self._lock:
            if member.id in self._members:
                raise UsageError(f"{member.id} is in the network already")
            change = self._replace(member, Policy(), policy, _appear(self._table, member))
            self._members[member.id], self._policies[member.id] = member, policy
            return change

    def apply(self, id: str, policy: Policy) -> Change:
        with self._lock:
            member = member_of(self._members, id)
            change = self._replace(member, self._policies[id], policy)
            self._policies[id] = policy
            return change

    def expel(self, id: str) -> None:
        with self._lock:
            member = member_of(self._members, id)
            gone = _disappear(self._table, member)
            self._replace(member, self._policies[id], Policy(), gone)
            del self._members[id], self._policies[id], self._own_sets[id]

    def open_gate(self, mac: bytes, addresses: Sequence[IPv4Address | IPv6Address]) -> None:
        """Let every sandbox resolve the bridge's own addresses to its MAC address."""
        with self._lock:
            messages: list[bytes] = []
            for address in addresses:
                messages += self._table.add(f"gate{address.version}", [address.packed])
                messages.append(
                    self._table.map_to(f"mac{address.version}", [(address.packed, mac)])
                )
            self._commit(messages)

    def counters(self) -> Mapping[str, Counters]:
        with self._lock:
            members = list(self._members.values())
            ports = [ruleset.port_key(member.port) for member in members]
            sent4 = self._counts("own4", [_own4(member) for member in members])
            sent6 = self._counts("own6", [_own6(member) for member in members])
            denied, spoofed = self._counts("denied", ports), self._counts("spoofed", ports)
        return {
            member.id: Counters(four[0] + six[0], four[1] + six[1], refused[0], forged[0])
            for member, four, six, refused, forged in zip(
                members, sent4, sent6, denied, spoofed, strict=True
            )
        }

    @property
    def netlink(self) -> Netlink:
        """The socket that owns the table: the table lasts as long as any process holds it."""
        return self._netlink

    def empty_change(self) -> None:
        """An empty transaction: the cost of a request to the kernel."""
        with self._lock:
            self._netlink.send(nft.transaction([]))

    def holds(self, id: str, destination: Destination) -> bool:
        """See `PolicyEngine.holds`."""
        with self._lock:
            member = member_of(self._members, id)
            plan = Policy([destination]).plan
            ((shape, keys),) = ((shape, plan[shape]) for shape in plan if shape.action == "allow")
            own = self._own_sets[id].get(shape)
            address = member.address if destination.family == 4 else member.address6
            key = keys[0] if own else address.packed + keys[0]
            try:
                self._netlink.ask(self._table.query(own.name if own else shape.name, [key]))
            except NetlinkError as error:
                if error.errno != errno.ENOENT:
                    raise
                return False
            return True

    def close(self) -> None:
        """The kernel removes the table with the socket that owns it."""
        with self._lock:
            self._members.clear()
            self._netlink.close()

    def _replace(
        self, member: Member, before: Policy, after: Policy, first: Iterable[bytes] = ()
    ) -> Change:
        """Commit the difference of two policies; this object's state changes after the kernel's."""
        own = self._own_sets.get(member.id, {})
        draft = _Draft(self._table, member, self._known, own, self._generation)
        draft.messages += first
        draft.replace(before, after)
        self._commit(draft.messages)
        self._known, self._own_sets[member.id] = draft.known, draft.own_sets
        return Change(draft.added, draft.removed, cuts_established=True)

    def _commit(self, messages: Sequence[bytes]) -> None:
        if not messages:
            return
        try:
            self._netlink.send(nft.transaction(messages))
        except NetlinkError as error:
            raise _explained(error) from error

    def _counts(self, name: str, keys: Sequence[bytes]) -> Sequence[tuple[int, int]]:
        """The counter of each key's element, in packets and bytes."""
        query = self._table.query
        return [nft.counted(self._netlink.ask(query(name, [key]))[0]) for key in keys]


def _explained(error: NetlinkError) -> CoppiceError:
    """The error for a refusal by the kernel, with its cause and remedy."""
    why = error.strerror
    if error.errno in (errno.EPERM, errno.EACCES):
        return MissingPrivilege(
            f"the packet filter may not be changed: {why}",
            hint="run it again as root, or with sudo",
        )
    if error.errno in (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
        return Unsupported(
            f"this kernel lacks a feature of nf_tables: {why}",
            hint="needs CONFIG_NF_TABLES and CONFIG_NF_TABLES_BRIDGE: modprobe nf_tables",
        )
    if error.errno in (errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
        return NotEnoughMemory(f"the packet filter has no room for this: {why}")
    return CoppiceError(f"nf_tables refused a change, which had no effect: {why}")


@dataclass(frozen=True)
class _Known:
    """Which shapes have a set and rules, and which roles dispatch to chains of single sandboxes.

    `number` is that of the latest change in several places (see `ruleset`).
    """

    shapes: frozenset[Shape]
    dispatching: frozenset[str]
    number: int


@dataclass(frozen=True)
class _OwnSet:
    """A set of one sandbox, and the roles whose chains look it up."""

    name: str
    roles: Sequence[Role]


class _Draft:
    """One pending change: its messages, and the state once they are committed."""

    def __init__(
        self,
        table: Table,
        member: Member,
        known: _Known,
        own_sets: Mapping[Shape, _OwnSet],
        generation: Iterator[int],
    ) -> None:
        self.messages: list[bytes] = []
        self.known = known
        self.own_sets = dict(own_sets)
        self.added = self.removed = 0
        self._before = own_sets
        self._table = table
        self._member = member
        self._generation = generation

    def replace(self, before: Policy, after: Policy) -> None:
        if before.default != after.default:
            change = self._table.add if after.default == "allow" else self._table.remove
            self.messages += change("open4", [self._member.address.packed])
            self.messages += change("open6", [self._member.address6.packed])
        moved: list[Shape] = []
        touched: list[Shape] = []
        for shape in {**before.plan, **after.plan}:
            old, new = before.plan.get(shape, ()), after.plan.get(shape, ())
            if old == new:
                continue
            if len(new) > MOST:
                raise PolicyError(
                    f"a policy has {len(new)} entries of one kind; the limit is {MOST}",
                    hint="combine neighbouring addresses into prefixes",
                )
            touched.append(shape)
            self.added, self.removed = self.added + len(new), self.removed + len(old)
            self._shared(shape, _short(old), _short(new))
            if len(old) >= LONG or len(new) >= LONG:
                self._own(shape, new if len(new) >= LONG else (), shape in after.near)
                moved.append(shape)
        if moved:
            self._rewire(moved)
        closed = before.default == after.default == "deny" and not (before.plan and after.plan)
        if before.default != after.default or (
            # From or to an empty policy no number is needed: a frame that finds an entry obeys one
            # policy, a frame that finds none the other.
            not closed and _mixed(touched, moved, self._before, self.own_sets)
        ):
            number = self.known.number
            self.messages += ruleset.number(self._table, number + 1, number)
            self.known = replace(self.known, number=number + 1)

    def _own_address(self, family: int) -> bytes:
        return (self._member.address if family == 4 else self._member.address6).packed

    def _shared(self, shape: Shape, old: Sequence[bytes], new: Sequence[bytes]) -> None:
        """Change elements of the set that all sandboxes share."""
        if new and shape not in self.known.shapes:
            self._introduce(shape)
        own = self._own_address(shape.family)
        kept = set(old) & set(new)
        gone = [own + key for key in old if key not in kept]
        come = [own + key for key in new if key not in kept]
        self.messages += self._table.remove(shape.name, gone)
        self.messages += self._table.add(shape.name, come)

    def _introduce(self, shape: Shape) -> None:
        """Create the set of a shape, and the rules that look it up."""
        self.messages.append(self._table.set(ruleset.shared_set(shape)))
        self.messages += [role.rule(self._table, shape) for role in ruleset.roles(shape)]
        self.known = replace(self.known, shapes=self.known.shapes | {shape})

    def _own(self, shape: Shape, keys: Sequence[bytes], near: bool) -> None:
        """Create a set of the sandbox's own, if it has keys; `_rewire` deletes the old one."""
        self.own_sets.pop(shape, None)
        if keys:
            name = f"{shape.name}.{next(self._generation):x}"
            self.messages.append(self._table.set(ruleset.own_set(shape, name, len(keys))))
            self.messages += self._table.add(name, keys)
            self.own_sets[shape] = _OwnSet(name, ruleset.roles(shape, near))

    def _rewire(self, moved: Sequence[Shape]) -> None:
        """Make the sandbox's own chains look up its present sets."""
        table = self._table
        before = {shape: self._before[shape] for shape in moved if shape in self._before}
        after = {shape: self.own_sets[shape] for shape in moved if shape in self.own_sets}
        for role in dict.fromkeys(
            role for owned in (*before.values(), *after.values()) for role in owned.roles
        ):
            asked = {shape: owned for shape, owned in self.own_sets.items() if role in owned.roles}
            chain = f"{role.name}.{self._member.id}"
            key = self._own_address(4 if role.own.length == 4 else 6)
            there = any(role in owned.roles for owned in self._before.values())
            if there:
                self.messages.append(table.empty_chain(chain))
            else:
                self._open(role, key, chain)
            for shape, owned in asked.items():
                self.messages.append(role.own_rule(table, chain, shape, owned.name))
            if not asked:
                self.messages += table.remove(role.verdicts, [key])
                self.messages.append(table.delete_chain(chain))
        self.messages += [table.delete_set(owned.name) for owned in before.values()]

    def _open(self, role: Role, key: bytes, chain: str) -> None:
        """Create a chain of the sandbox's own, and the dispatch to it."""
        if role.name not in self.known.dispatching:
            self.messages += role.dispatch(self._table)
            self.known = replace(self.known, dispatching=self.known.dispatching | {role.name})
        self.messages.append(self._table.chain(chain))
        self.messages.append(self._table.send_to(role.verdicts, key, chain))


def _mixed(
    touched: Sequence[Shape],
    moved: Sequence[Shape],
    before: Mapping[Shape, _OwnSet],
    after: Mapping[Shape, _OwnSet],
) -> bool:
    """Whether a frame may look into two places that a change touches.

    A shared set is one place. A sandbox's own sets are looked up by rules, which all change at
    once.
    """
    if any((shape in before) != (shape in after) for shape in moved):
        return True
    shared = [shape.family for shape in touched if shape not in moved]
    return len(shared) > len(set(shared)) or bool(shared and moved)


def _short(keys: Sequence[bytes]) -> Sequence[bytes]:
    return keys if len(keys) < LONG else ()


def _own4(member: Member) -> bytes:
    return ruleset.own_key(member.port, member.mac, member.address.packed)


def _own6(member: Member) -> bytes:
    return ruleset.own_key(member.port, member.mac, member.address6.packed)


def _places(member: Member) -> Mapping[str, bytes]:
    """The sets that contain every sandbox, and its key in each."""
    port = ruleset.port_key(member.port)
    return {"own4": _own4(member), "own6": _own6(member), "spoofed": port, "denied": port}


def _appear(table: Table, member: Member) -> Iterator[bytes]:
    for name, key in _places(member).items():
        yield from table.add(name, [key])
    yield table.map_to("mac4", [(member.address.packed, member.mac)])
    yield table.map_to("mac6", [(member.address6.packed, member.mac)])


def _disappear(table: Table, member: Member) -> Iterator[bytes]:
    for name, key in _places(member).items():
        yield from table.remove(name, [key])
    yield from table.remove("mac4", [member.address.packed])
    yield from table.remove("mac6", [member.address6.packed])
