"""A policy as pf rules and tables: the text of one anchor, loaded in one transaction.

Every rule matches the interface that packets arrive on, so that an anchor applies to its own
sandbox only. Only what a sandbox sends is filtered, where it enters the bridge; what it receives
was filtered at the sender's port, and created a state there that admits the answers.

    forged   -> blocked       the source is not its own address
    dns      -> passed        resolvers, port 53
    allow    -> passed        addresses and prefixes; then services, a table for each
    deny     -> blocked       this and the next line only if the default is allow
    private  -> blocked
    default

pf has two calls: one replaces rules, another kills the states that older rules created. Between
the two, states still admit what the new rules deny. A change that takes something away and adds
something therefore needs a step between, `between`: what both policies allow. Its rules pass
through the old policy first, which only tags each packet with its outcome.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from harness.network.policy import PROTOCOLS, Destination, Policy
from harness.network.protocol import Member
from harness.network.ruleset import PRIVATE

SENT, DENIED, FORGED, ANSWERED = "sent", "denied", "forged", "answered"
"""Labels of rules, under which pf counts packets."""
ALLOW, DENY = "allow", "deny"
_WAS = "was."
"""Before the names of the old policy's tables, in the step between."""
_WAS_ALLOWED, _WAS_DENIED = "coppice.was.allowed", "coppice.was.denied"
_NAMES = {number: name for name, number in PROTOCOLS.items()}
_KEEP = "flags any keep state (sloppy)"
"""Any packet creates a state, so killing states does not end connections that are still allowed."""


@dataclass(frozen=True)
class Ruleset:
    """An anchor's content. `rules` are equal for policies that differ only in addresses."""

    rules: str
    tables: Mapping[str, Sequence[str]]

    def text(self) -> str:
        """The input of `pfctl -f -`: tables with entries, then rules."""
        lines = [
            f"table <{name}> persist {{ {', '.join(entries)} }}" if entries
            else f"table <{name}> persist"
            for name, entries in self.tables.items()
        ]  # fmt: skip
        return "\n".join([*lines, self.rules])


@dataclass(frozen=True)
class _Step:
    """One step of a policy: whether packets that match pass. The first match decides."""

    passes: bool
    match: str
    table: str | None = None

    def quick(self, port: str) -> str:
        """The rule that decides."""
        if self.passes:
            return f'pass in quick on {port} {self.match} {_KEEP} label "{SENT}"'
        return f'block drop in quick on {port} {self.match} label "{DENIED}"'

    def mark(self, port: str) -> str:
        """A rule that only tags, for a later one to decide; its table is an old one."""
        match = re.sub("<(?!own>)", f"<{_WAS}", self.match)
        if self.passes:
            return f"pass in on {port} {match} flags any no state tag {_WAS_ALLOWED}"
        return f"block drop in on {port} {match} tag {_WAS_DENIED}"


def ruleset(member: Member, port: str, policy: Policy) -> Ruleset:
    """The anchor of a sandbox whose port is the interface named `port`."""
    tables = _own(member)
    steps = _steps(policy, tables)
    return _anchor(port, [step.quick(port) for step in steps], tables)


def between(member: Member, port: str, before: Policy, after: Policy) -> Ruleset:
    """What both policies allow, exactly: the step between them (see `tightens`)."""
    old, new = ruleset(member, port, before), ruleset(member, port, after)
    if old.rules == new.rules:
        changed = [name for name in new.tables if old.tables[name] != new.tables[name]]
        if len(changed) <= 1:
            lists = {name: _common(name, old.tables[name], new.tables[name]) for name in changed}
            return Ruleset(new.rules, {**new.tables, **lists})
    tables, was = _own(member), _own(member)
    steps, before_steps = _steps(after, tables), _steps(before, was)
    same = [
        step for step in steps
        if step.table and step.passes and step in before_steps
        and tables[step.table] == was[step.table]
    ]  # fmt: skip
    first = [step.quick(port) for step in same]
    # The last match counts here, so in reverse: the first match of the policy.
    marks = [step.mark(port) for step in reversed(before_steps) if step not in same]
    denied = f'block drop in quick on {port} all tagged {_WAS_DENIED} label "{DENIED}"'
    last = [step.quick(port) for step in steps if step not in same]
    kept = {step.table for step in same}
    tables |= {f"{_WAS}{name}": was[name] for name in was if name != "own" and name not in kept}
    return _anchor(port, [*first, *marks, denied, *last], tables)


def _own(member: Member) -> dict[str, list[str]]:
    return {"own": [str(member.address), str(member.address6)]}


def _anchor(port: str, rules: Sequence[str], tables: Mapping[str, Sequence[str]]) -> Ruleset:
    """Add what every policy has: no forged source, and what others may send to the sandbox."""
    rules = [
        f'block drop in quick on {port} inet from ! <own> to any label "{FORGED}"',
        f'block drop in quick on {port} inet6 from ! <own> to any label "{FORGED}"',
        *rules,
        f'pass out quick on {port} all {_KEEP} label "{ANSWERED}"',
    ]
    return Ruleset("\n".join(rules) + "\n", tables)


def _steps(policy: Policy, tables: dict[str, list[str]]) -> Sequence[_Step]:
    """A policy's steps in order of precedence; fills their tables."""
    steps = []
    if policy.dns:
        tables["dns"] = [_written(resolver) for resolver in policy.dns]
        steps.append(_Step(True, "proto { tcp, udp } from <own> to <dns> port 53", "dns"))
    steps += _places(True, policy.allow, tables, ALLOW)
    if policy.default == "allow":
        steps += _places(False, policy.deny, tables, DENY)
        tables["private"] = [str(network) for network in PRIVATE]
        steps.append(_Step(False, "from <own> to <private>", "private"))
        steps.append(_Step(True, "from <own> to any"))
    steps.append(_Step(False, "all"))
    return steps


def _places(
    passes: bool, destinations: Sequence[Destination], tables: dict[str, list[str]], action: str
) -> Sequence[_Step]:
    """One table for whole addresses and one per service, each with its step."""
    found: dict[str, _Step] = {}
    for destination in destinations:
        name, match = action, f"from <own> to <{action}>"
        if destination.protocol is not None:
            service = _NAMES[destination.protocol]
            name = f"{action}.{service}.{destination.port}"
            match = f"proto {service} from <own> to <{name}> port {destination.port}"
        tables.setdefault(name, []).append(_written(destination))
        if name not in found:
            found[name] = _Step(passes, match, name)
    return [found[name] for name in sorted(found)]  # whatever the order of the destinations


def _common(table: str, old: Sequence[str], new: Sequence[str]) -> Sequence[str]:
    """The entries of a table that allows what both allow, or denies what either denies."""
    return (_either if table.startswith(DENY) else _both)(old, new)


def _either(old: Sequence[str], new: Sequence[str]) -> Sequence[str]:
    return list(dict.fromkeys([*old, *new]))


def _both(old: Sequence[str], new: Sequence[str]) -> Sequence[str]:
    """The entries that lie within both lists: a prefix in one, an address in the other."""
    if not any("/" in entry for entry in (*old, *new)):
        known = set(old)
        return [entry for entry in new if entry in known]
    before, after = ({ip_network(entry): entry for entry in entries} for entries in (old, new))
    common = [after[network] for network in after if _within(network, before)]
    return _either(common, [before[network] for network in before if _within(network, after)])


def _within(network: IPv4Network | IPv6Network, others: Collection[object]) -> bool:
    return any(
        network.supernet(new_prefix=length) in others for length in range(network.prefixlen + 1)
    )


def _written(destination: Destination) -> str:
    where = str(ip_address(destination.address))
    return (
        where
        if destination.length == 8 * len(destination.address)
        else f"{where}/{destination.length}"
    )


def tightens(before: Policy, after: Policy) -> bool:
    """Whether something allowed before may be denied now; True if in doubt."""
    if before.default == "allow" and (after.default == "deny" or after.deny != before.deny):
        return True
    kept = set(after.allow)
    return any(destination not in kept for destination in before.allow) or any(
        destination not in after.dns for destination in before.dns
    )
