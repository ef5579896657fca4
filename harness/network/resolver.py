"""The resolver of an outside network, as its owner has configured it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

_NAMED = Path("/etc/netns")
"""Where `ip netns` keeps the configuration of namespaces by their names."""
_FILES = ("etc/resolv.conf", "run/systemd/resolve/resolv.conf")
"""The second has the resolvers behind systemd's own, which listens on a loopback address."""


def resolver_of(outside: Path | int) -> IPv4Address | None:
    """The first resolver that can be reached from another namespace, or None.

    `outside` is a namespace's path, or the PID of a process in it.
    """
    if isinstance(outside, int):
        root = Path(f"/proc/{outside}/root")
        files = [root / name for name in _FILES]
    else:
        files = [_NAMED / outside.name / "resolv.conf", *(Path("/") / name for name in _FILES)]
    return first_reachable(files)


def first_reachable(files: Iterable[Path]) -> IPv4Address | None:
    """The first resolver in any of these files that `reachable` accepts."""
    for path in files:
        try:
            text = path.read_text(errors="replace", encoding="utf-8")
        except OSError:
            continue
        for line in text.splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver" and (address := reachable(words[1])):
                return address
    return None


def reachable(text: str) -> IPv4Address | None:
    """A resolver's address, unless only its own namespace reaches it."""
    try:
        address = IPv4Address(text)
    except AddressValueError:
        return None
    usable = not (address.is_loopback or address.is_unspecified or address.is_multicast)
    return address if usable else None
