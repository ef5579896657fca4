"""What a sandbox may reach: data, with JSON in and out.

A destination is written `10.1.2.3`, `10.0.0.0/8`, `2001:db8::/32`, each with a protocol and port
after it if it shall be one service only: `10.1.2.3 tcp/443`. Allow goes over deny, deny over the
default, and private ranges are denied unless they are allowed.
"""

from __future__ import annotations

import functools
import json
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Network, ip_address, ip_network
from typing import Any, Literal

from harness.errors import PolicyError
from harness.host.identity import NETWORK, NETWORK6

Action = Literal["allow", "deny", "dns", "near"]
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_NAMES = {number: name for name, number in PROTOCOLS.items()}
DNS_PORT = 53
_POOL = {
    4: (NETWORK.network_address.packed, NETWORK.prefixlen),
    6: (NETWORK6.network_address.packed, NETWORK6.prefixlen),
}
_MAPPED = IPv6Network("::ffff:0:0/96")


@dataclass(frozen=True)
class Destination:
    """An address or prefix: its bytes and length; with `protocol` and `port` one service there.

    `protocol` is IP's number for it.
    """

    address: bytes
    length: int
    protocol: int | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Raises PolicyError, which says what is wrong with the text."""
        if not isinstance(text, str):
            raise PolicyError(f"{text!r} is no destination: it must be text")
        words = text.split()
        if len(words) not in (1, 2):
            raise PolicyError(f"{text!r} is no destination", hint="write it as 10.1.2.3 tcp/443")
        address, length = _network(words[0])
        return cls(address, length, *(_service(words[1]) if len(words) == 2 else ()))

    @property
    def family(self) -> Literal[4, 6]:
        return 4 if len(self.address) == 4 else 6

    def __str__(self) -> str:
        where = str(ip_address(self.address))
        if self.length < 8 * len(self.address):
            where += f"/{self.length}"
        if self.protocol is None:
            return where
        return f"{where} {_NAMES[self.protocol]}/{self.port}"


def _network(text: str) -> tuple[bytes, int]:
    try:
        return socket.inet_pton(socket.AF_INET, text), 32  # most are, and by thousands
    except OSError:
        pass
    address, slash, length = text.partition("/")
    try:
        found = ip_network(text)
    except ValueError as error:
        hint = None
        if slash and ":" not in address and length.isdigit() and 32 < int(length) <= 128:
            hint = f"{address} is of IPv4, whose prefixes end at 32"
        elif "host bits" in str(error):
            hint = f"write it as {ip_network(text, strict=False)}"
        raise PolicyError(f"{text!r} is no address or prefix: {error}", hint=hint) from error
    if isinstance(found, IPv6Network) and found.subnet_of(_MAPPED):
        raise PolicyError(
            f"{text!r} is an address of IPv4 written as one of IPv6: no packet carries it",
            hint=f"write it as {found.network_address.ipv4_mapped}",
        )
    return found.network_address.packed, found.prefixlen


def _service(text: str) -> tuple[int, int]:
    name, _, port = text.partition("/")
    if name not in PROTOCOLS or not port.isdecimal() or not 0 < int(port) < 65536:
        names = ", ".join(PROTOCOLS)
        raise PolicyError(f"{text!r} is no service", hint=f"one of {names}, a slash, and a port")
    return PROTOCOLS[name], int(port)


@dataclass(frozen=True)
class Shape:
    """One kind of entry: all of a kind are keys of one hash set, whichever sandbox's they are.

    `action` is allow, deny, dns, or near (who may be asked for the address of its card, where only
    services of it are allowed); `family` 4 or 6; `length` the prefix's.
    """

    action: Action
    family: Literal[4, 6]
    length: int
    service: bool

    @property
    def name(self) -> str:
        return f"{self.action}{self.family}.{self.length}{'.service' if self.service else ''}"

    @property
    def is_host(self) -> bool:
        """Whether entries are whole addresses, whatever the service: what most packets match."""
        return not self.service and self.length == (32 if self.family == 4 else 128)


Plan = Mapping[Shape, Sequence[bytes]]
"""What a policy is to a packet filter: for each shape its keys, without the sandbox's address."""


@dataclass(frozen=True)
class Policy:
    """What one sandbox may reach; overlapping prefixes are merged."""

    allow: Sequence[Destination] = ()
    deny: Sequence[Destination] = ()
    dns: Sequence[Destination] = ()
    """Resolvers, by their addresses, reachable on port 53 only."""
    default: Literal["deny", "allow"] = "deny"

    def __post_init__(self) -> None:
        if self.default not in ("deny", "allow"):
            raise PolicyError(f"a policy's default is deny or allow, not {self.default!r}")
        if any(one.port is not None for one in self.dns):
            raise PolicyError("a resolver is an address without a port")
        for name in ("allow", "deny", "dns"):
            object.__setattr__(self, name, _merged(getattr(self, name)))
        _ = self.plan, self.near  # whoever has a policy has all of it: applying it reads it only

    @classmethod
    def of(
        cls,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        dns: Iterable[str] = (),
        default: Literal["deny", "allow"] = "deny",
    ) -> Policy:
        """A policy from destinations as text."""
        parse = Destination.parse
        return cls(
            [parse(one) for one in allow],
            [parse(one) for one in deny],
            [parse(one) for one in dns],
            default,
        )

    def to_json(self) -> dict[str, Any]:
        lists = {name: [str(one) for one in getattr(self, name)] for name in _LISTS}
        return {**lists, "default": self.default}

    @classmethod
    def from_json(cls, text: str | bytes | Mapping[str, Any]) -> Policy:
        """From JSON, as text or read already. A missing key is empty, and the default deny."""
        try:
            data = text if isinstance(text, Mapping) else json.loads(text)
        except ValueError as error:
            raise PolicyError(f"the policy is not JSON: {error}") from error
        if not isinstance(data, Mapping):
            raise PolicyError("a policy is an object of JSON")
        unknown = sorted(set(data) - {*_LISTS, "default"})
        if unknown:
            raise PolicyError(f"a policy has no {', '.join(unknown)}", hint=", ".join(_LISTS))
        lists = {name: data.get(name, []) for name in _LISTS}
        if not all(isinstance(one, list) for one in lists.values()):
            raise PolicyError("allow, deny and dns are lists of destinations")
        return cls.of(**lists, default=data.get("default", "deny"))

    @functools.cached_property
    def plan(self) -> Plan:
        """The policy's entries by shape. With `default` deny nothing more needs to be denied."""
        plan: dict[Shape, list[bytes]] = {}
        for one in self.allow:
            _plan(plan, "allow", one)
            if one.port is not None:
                _plan(plan, "near", Destination(one.address, one.length))
        for resolver in self.dns:
            for protocol in (PROTOCOLS["udp"], PROTOCOLS["tcp"]):
                service = replace(resolver, protocol=protocol, port=DNS_PORT)
                _plan(plan, "dns", service)
            _plan(plan, "near", resolver)
        if self.default == "allow":
            for one in self.deny:
                _plan(plan, "deny", one)
        return {shape: tuple(dict.fromkeys(keys)) for shape, keys in plan.items()}

    @functools.cached_property
    def near(self) -> frozenset[Shape]:
        """Shapes with an entry on the bridge itself, for whose card somebody may ask."""
        return frozenset(
            shape
            for shape, keys in self.plan.items()
            if any(_overlaps(key, min(shape.length, _POOL[shape.family][1])) for key in keys)
        )


_LISTS = ("allow", "deny", "dns")


def _plan(
    plan: dict[Shape, list[bytes]],
    action: Literal["allow", "deny", "dns", "near"],
    one: Destination,
) -> None:
    shape = Shape(action, one.family, one.length, one.port is not None)
    key = one.address
    if one.port is not None and one.protocol is not None:
        key += bytes((one.protocol, 0, 0, 0)) + one.port.to_bytes(2, "big") + b"\0\0"
    plan.setdefault(shape, []).append(key)


def _overlaps(key: bytes, length: int) -> bool:
    """Whether the first `length` bits of a key's address are those of the sandboxes' pool."""
    family: Literal[4, 6] = 6 if len(key) in (16, 24) else 4
    pool = _POOL[family][0]
    whole, rest = divmod(length, 8)
    if key[:whole] != pool[:whole]:
        return False
    return not rest or (key[whole] ^ pool[whole]) >> (8 - rest) == 0


def _merged(destinations: Iterable[Destination]) -> Sequence[Destination]:
    """Without duplicates, and without those that stand inside a prefix of the same service."""
    kept: dict[tuple[int, int | None, int | None], dict[int, set[int]]] = {}
    merged = []
    for one in sorted(destinations, key=lambda one: (one.family, one.length)):
        lengths = kept.setdefault((one.family, one.protocol, one.port), {})
        number, bits = int.from_bytes(one.address), 8 * len(one.address)
        if not any(number >> (bits - length) in found for length, found in lengths.items()):
            lengths.setdefault(one.length, set()).add(number >> (bits - one.length))
            merged.append(one)
    return tuple(merged)
