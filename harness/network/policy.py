"""Network policies: what a sandbox may reach, as data that converts from and to JSON.

A destination is written `10.1.2.3`, `10.0.0.0/8` or `2001:db8::/32`, followed by a protocol and
port for a single service: `10.1.2.3 tcp/443`. Allow takes precedence over deny, deny over the
default. Private ranges are denied unless they are allowed explicitly.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Network, ip_address, ip_network
from typing import Any, Literal

from harness import strict_json
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
    """An address or prefix, in bytes and length; with `protocol` and `port` a service there.

    `protocol` is an IP protocol number.
    """

    address: bytes
    length: int
    protocol: int | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Raises PolicyError with the mistake in the text."""
        if not isinstance(text, str):
            raise PolicyError(f"{text!r} is not a destination: it must be a string")
        words = text.split()
        if len(words) not in (1, 2):
            raise PolicyError(f"{text!r} is not a destination", hint="write it as 10.1.2.3 tcp/443")
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
        return socket.inet_pton(socket.AF_INET, text), 32  # fast: policies may have thousands
    except OSError:
        pass
    address, slash, length = text.partition("/")
    try:
        found = ip_network(text)
    except ValueError as error:
        hint = None
        if slash and ":" not in address and length.isdigit() and 32 < int(length) <= 128:
            hint = f"{address} is an IPv4 address, whose prefix length is at most 32"
        elif "host bits" in str(error):
            hint = f"write it as {ip_network(text, strict=False)}"
        raise PolicyError(f"{text!r} is not an address or prefix: {error}", hint=hint) from error
    if isinstance(found, IPv6Network) and found.subnet_of(_MAPPED):
        raise PolicyError(
            f"{text!r} is an IPv4-mapped IPv6 address, which no packet carries",
            hint=f"write it as {found.network_address.ipv4_mapped}",
        )
    return found.network_address.packed, found.prefixlen


def _service(text: str) -> tuple[int, int]:
    name, _, port = text.partition("/")
    if name not in PROTOCOLS or not port.isdecimal() or not 0 < int(port) < 65536:
        names = ", ".join(PROTOCOLS)
        raise PolicyError(
            f"{text!r} is not a service", hint=f"write one of {names}, a slash, and a port"
        )
    return PROTOCOLS[name], int(port)


@dataclass(frozen=True)
class Shape:
    """A kind of entry: all entries of one shape, of all sandboxes, are keys of one hash set.

    `action` is allow, deny, dns, or near (whose MAC address may be resolved although only services
    there are allowed); `family` is 4 or 6; `length` the length of the prefix.
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
        """Whether entries are single addresses without a service, which most packets match."""
        return not self.service and self.length == (32 if self.family == 4 else 128)


Plan = Mapping[Shape, Sequence[bytes]]
"""A policy for a packet filter: the keys of each shape, without the sandbox's own address."""


@dataclass(frozen=True)
class Policy:
    """What one sandbox may reach; overlapping prefixes are merged."""

    allow: Sequence[Destination] = ()
    deny: Sequence[Destination] = ()
    dns: Sequence[Destination] = ()
    """Addresses of resolvers, reachable on port 53 only."""
    default: Literal["deny", "allow"] = "deny"

    def __post_init__(self) -> None:
        if self.default not in ("deny", "allow"):
            raise PolicyError(f"a policy's default must be deny or allow, not {self.default!r}")
        if any(resolver.port is not None for resolver in self.dns):
            raise PolicyError("a resolver must be an address without a port")
        for name in ("allow", "deny", "dns"):
            object.__setattr__(self, name, _merged(getattr(self, name)))
        _ = self.plan, self.near  # computed now, so that applying a policy only reads it

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
            [parse(text) for text in allow],
            [parse(text) for text in deny],
            [parse(text) for text in dns],
            default,
        )

    def to_json(self) -> dict[str, Any]:
        lists = {name: [str(destination) for destination in getattr(self, name)] for name in _LISTS}
        return {**lists, "default": self.default}

    @classmethod
    def from_json(cls, text: str | bytes | Mapping[str, Any]) -> Policy:
        """A policy from JSON, as text or parsed. Missing lists are empty; the default is deny."""
        try:
            data = text if isinstance(text, Mapping) else strict_json.loads(text)
        except ValueError as error:
            raise PolicyError(f"the policy is not JSON: {error}") from error
        if not isinstance(data, Mapping):
            raise PolicyError("a policy must be a JSON object")
        unknown = sorted(set(data) - {*_LISTS, "default"})
        if unknown:
            raise PolicyError(f"a policy has no {', '.join(unknown)}", hint=", ".join(_LISTS))
        lists = {name: data.get(name, []) for name in _LISTS}
        if not all(isinstance(value, list) for value in lists.values()):
            raise PolicyError("allow, deny and dns must be lists of destinations")
        return cls.of(**lists, default=data.get("default", "deny"))

    @functools.cached_property
    def plan(self) -> Plan:
        """The policy's entries by shape. If the default is deny, `deny` adds nothing."""
        plan: dict[Shape, list[bytes]] = {}
        for destination in self.allow:
            _plan(plan, "allow", destination)
            if destination.port is not None:
                _plan(plan, "near", Destination(destination.address, destination.length))
        for resolver in self.dns:
            for protocol in (PROTOCOLS["udp"], PROTOCOLS["tcp"]):
                service = replace(resolver, protocol=protocol, port=DNS_PORT)
                _plan(plan, "dns", service)
            _plan(plan, "near", resolver)
        if self.default == "allow":
            for destination in self.deny:
                _plan(plan, "deny", destination)
        return {shape: tuple(dict.fromkeys(keys)) for shape, keys in plan.items()}

    @functools.cached_property
    def near(self) -> frozenset[Shape]:
        """Shapes with an entry on the bridge itself, whose MAC address may have to be resolved."""
        return frozenset(
            shape
            for shape, keys in self.plan.items()
            if any(_overlaps(key, min(shape.length, _POOL[shape.family][1])) for key in keys)
        )


_LISTS = ("allow", "deny", "dns")


def _plan(
    plan: dict[Shape, list[bytes]],
    action: Literal["allow", "deny", "dns", "near"],
    destination: Destination,
) -> None:
    shape = Shape(action, destination.family, destination.length, destination.port is not None)
    key = destination.address
    if destination.port is not None and destination.protocol is not None:
        key += (
            bytes((destination.protocol, 0, 0, 0)) + destination.port.to_bytes(2, "big") + b"\0\0"
        )
    plan.setdefault(shape, []).append(key)


def _overlaps(key: bytes, length: int) -> bool:
    """Whether the first `length` bits of a key's address equal those of the sandboxes' network."""
    family: Literal[4, 6] = 6 if len(key) in (16, 24) else 4
    pool = _POOL[family][0]
    whole, rest = divmod(length, 8)
    if key[:whole] != pool[:whole]:
        return False
    return not rest or (key[whole] ^ pool[whole]) >> (8 - rest) == 0


def _merged(destinations: Iterable[Destination]) -> Sequence[Destination]:
    """Remove duplicates, and destinations inside a prefix of the same service."""
    kept: dict[tuple[int, int | None, int | None], dict[int, set[int]]] = {}
    merged = []
    for destination in sorted(
        destinations, key=lambda destination: (destination.family, destination.length)
    ):
        lengths = kept.setdefault((destination.family, destination.protocol, destination.port), {})
        number, bits = int.from_bytes(destination.address), 8 * len(destination.address)
        if not any(number >> (bits - length) in found for length, found in lengths.items()):
            lengths.setdefault(destination.length, set()).add(number >> (bits - destination.length))
            merged.append(destination)
    return tuple(merged)
