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
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from harness.network.policy import PROTOCOLS, Destination, Policy
from harness.network.protocol import Member
from harness.network.ruleset import PRIVATE

SENT, DENIED, FORGED, ANSWERED = "sent", "denied", "forged", "answered"
"""Labels of rules, under which pf counts packets."""
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


def ruleset(member: Member, port: str, policy: Policy) -> Ruleset:
    """The anchor of a sandbox whose port is the interface named `port`."""
    tables: dict[str, list[str]] = {"own": [str(member.address), str(member.address6)]}
    rules = [
        f'block drop in quick on {port} inet from ! <own> to any label "{FORGED}"',
        f'block drop in quick on {port} inet6 from ! <own> to any label "{FORGED}"',
    ]
    if policy.dns:
        tables["dns"] = [_written(resolver) for resolver in policy.dns]
        rules.append(
            f"pass in quick on {port} proto {{ tcp, udp }} from <own> to <dns> port 53 "
            f'{_KEEP} label "{SENT}"'
        )
    for name, protocol in _places(policy.allow, tables, "allow"):
        rules.append(
            f'pass in quick on {port} {protocol}from <own> to <{name}>{_port(protocol, name)} '
            f'{_KEEP} label "{SENT}"'
        )  # fmt: skip
    if policy.default == "allow":
        for name, protocol in _places(policy.deny, tables, "deny"):
            rules.append(
                f'block drop in quick on {port} {protocol}from <own> '
                f'to <{name}>{_port(protocol, name)} label "{DENIED}"'
            )  # fmt: skip
        tables["private"] = [str(network) for network in PRIVATE]
        rules.append(f'block drop in quick on {port} from <own> to <private> label "{DENIED}"')
        rules.append(f'pass in quick on {port} from <own> to any {_KEEP} label "{SENT}"')
    rules.append(f'block drop in quick on {port} all label "{DENIED}"')
    rules.append(f'pass out quick on {port} all {_KEEP} label "{ANSWERED}"')
    return Ruleset("\n".join(rules) + "\n", tables)


def _places(
    destinations: Sequence[Destination], tables: dict[str, list[str]], action: str
) -> list[tuple[str, str]]:
    """Fill one table for whole addresses and one per service; their names, each with a protocol."""
    found: dict[str, str] = {}
    for destination in destinations:
        if destination.protocol is None:
            name, protocol = action, ""
        else:
            service = _NAMES[destination.protocol]
            name, protocol = f"{action}.{service}.{destination.port}", f"proto {service} "
        tables.setdefault(name, []).append(_written(destination))
        found[name] = protocol
    return list(found.items())


def _port(protocol: str, table: str) -> str:
    return f" port {table.rpartition('.')[2]}" if protocol else ""


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
