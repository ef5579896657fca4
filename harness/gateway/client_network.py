"""Which addresses belong to one client."""

from __future__ import annotations

import ipaddress


def client_network(address: str) -> str:
    """What one client controls: an IPv4 address, or the 64-bit prefix of an IPv6 address."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(parsed.ipv4_mapped or ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
