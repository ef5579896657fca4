"""How pf evaluates the rules of an anchor, for those forms that `pf_rules` writes.

Written from pf.conf(5): the last match decides, a match with `quick` at once; the tag of a matching
rule is there for the rules after it. A form that it does not know is an error.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from harness.network.pf_rules import Ruleset

_RULE = re.compile(
    r"(?P<action>pass|block drop) (?P<direction>in|out) (?P<quick>quick )?on (?P<port>\S+) "
    r"(?P<family>inet6? )?(?P<protocols>proto (?:\{ tcp, udp \}|tcp|udp|sctp) )?"
    r"(?:all|from (?P<not>! )?<own> to (?:any|<(?P<table>[^>]+)>)(?: port (?P<number>\d+))?)"
    r"(?: tagged (?P<tagged>\S+))?"
    r"(?: flags any (?:keep state \(sloppy\)|no state))?"
    r'(?: tag (?P<tag>\S+))?(?: label "(?P<label>\w+)")?'
)


@dataclass(frozen=True)
class Packet:
    """What a sandbox sends."""

    source: str
    to: str
    protocol: str
    port: int


def passes(rules: Ruleset, packet: Packet) -> bool:
    """Whether the packet may enter the bridge, without a state that admits it."""
    verdict, tag = False, None
    for line in rules.rules.splitlines():
        found = _RULE.fullmatch(line)
        assert found, f"a rule of unknown form: {line}"
        if found["direction"] == "out" or not _matches(found, rules, packet, tag):
            continue
        verdict, tag = found["action"] == "pass", found["tag"] or tag
        if found["quick"]:
            break
    return verdict


def _matches(found: re.Match[str], rules: Ruleset, packet: Packet, tag: str | None) -> bool:
    family = "inet6" if ":" in packet.source else "inet"
    own = _has(rules.tables["own"], packet.source)
    return (
        (found["family"] or family).strip() == family
        and (found["protocols"] is None or packet.protocol in found["protocols"])
        and (" from " not in found[0] or own != bool(found["not"]))
        and (found["table"] is None or _has(rules.tables[found["table"]], packet.to))
        and (found["number"] is None or int(found["number"]) == packet.port)
        and (found["tagged"] is None or found["tagged"] == tag)
    )


def _has(entries: Sequence[str], address: str) -> bool:
    return any(_within(entry, address) for entry in entries)


@functools.cache
def _within(entry: str, address: str) -> bool:
    return ip_address(address) in ip_network(entry)
