"""A policy as rules and tables of pf: text for one anchor, loaded in one transaction.

Every rule is scoped by the card that packets come from, so that an anchor judges its own sandbox
and nobody else. Only what a sandbox sends is judged, where it enters the bridge; what reaches it
has been judged at its sender's port, and leaves a state there that lets the answer back.

    forged?  -> blocked       another source than its own
    dns      -> passed        resolvers, port 53
    allow    -> passed        addresses and prefixes; then services, a table for each
    deny     -> blocked       with a default of allow only, as all further lines
    private  -> blocked
    default
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from harness.network.policy import PROTOCOLS, Destination, Policy
from harness.network.protocol import Member
from harness.network.ruleset import PRIVATE

SENT, DENIED, FORGED, ANSWERED = "sent", "denied", "forged", "answered"
"""Labels, which pf counts under."""
_NAMES = {number: name for name, number in PROTOCOLS.items()}
_KEEP = "flags any keep state (sloppy)"
"""Any packet makes the state: killing all of a sandbox's ends nothing that is still allowed."""


@dataclass(frozen=True)
class Ruleset:
    """An anchor's content. `rules` are the same for policies that differ in addresses only."""

    rules: str
    tables: Mapping[str, Sequence[str]]

    def text(self) -> str:
        """For `pfctl -f -`: tables with their entries, then the rules."""
        lines = [
            f"table <{name}> persist {{ {', '.join(entries)} }}" if entries
            else f"table <{name}> persist"
            for name, entries in self.tables.items()
        ]  # fmt: skip
        return "\n".join([*lines, self.rules])


def ruleset(member: Member, card: str, policy: Policy) -> Ruleset:
    """The anchor of a sandbox behind `card`, the name of the interface that is its port."""
    tables: dict[str, list[str]] = {"own": [str(member.address), str(member.address6)]}
    rules = [
        f'block drop in quick on {card} inet from ! <own> to any label "{FORGED}"',
        f'block drop in quick on {card} inet6 from ! <own> to any label "{FORGED}"',
    ]
    if policy.dns:
        tables["dns"] = [_written(one) for one in policy.dns]
        rules.append(
            f"pass in quick on {card} proto {{ tcp, udp }} from <own> to <dns> port 53 "
            f'{_KEEP} label "{SENT}"'
        )
    for name, one in _places(policy.allow, tables, "allow"):
        rules.append(
            f'pass in quick on {card} {one}from <own> to <{name}>{_port(one, name)} '
            f'{_KEEP} label "{SENT}"'
        )  # fmt: skip
    if policy.default == "allow":
        for name, one in _places(policy.deny, tables, "deny"):
            rules.append(
                f'block drop in quick on {card} {one}from <own> to <{name}>{_port(one, name)} '
                f'label "{DENIED}"'
            )  # fmt: skip
        tables["private"] = [str(one) for one in PRIVATE]
        rules.append(f'block drop in quick on {card} from <own> to <private> label "{DENIED}"')
        rules.append(f'pass in quick on {card} from <own> to any {_KEEP} label "{SENT}"')
    rules.append(f'block drop in quick on {card} all label "{DENIED}"')
    rules.append(f'pass out quick on {card} all {_KEEP} label "{ANSWERED}"')
    return Ruleset("\n".join(rules) + "\n", tables)


def _places(
    destinations: Sequence[Destination], tables: dict[str, list[str]], action: str
) -> list[tuple[str, str]]:
    """A table for whole addresses, and one for each service: its name, and a rule's protocol."""
    found: dict[str, str] = {}
    for one in destinations:
        if one.protocol is None:
            name, protocol = action, ""
        else:
            service = _NAMES[one.protocol]
            name, protocol = f"{action}.{service}.{one.port}", f"proto {service} "
        tables.setdefault(name, []).append(_written(one))
        found[name] = protocol
    return list(found.items())


def _port(protocol: str, table: str) -> str:
    return f" port {table.rpartition('.')[2]}" if protocol else ""


def _written(one: Destination) -> str:
    where = str(ip_address(one.address))
    return where if one.length == 8 * len(one.address) else f"{where}/{one.length}"


def tightens(before: Policy, after: Policy) -> bool:
    """Whether something that was allowed may be so no more; when in doubt it is."""
    if before.default == "allow" and (after.default == "deny" or after.deny != before.deny):
        return True
    kept = set(after.allow)
    return any(one not in kept for one in before.allow) or any(
        one not in after.dns for one in before.dns
    )
