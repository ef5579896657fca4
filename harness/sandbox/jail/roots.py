"""Roots for jails: a copy of the template, or a clone of its ZFS snapshot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from harness.guest.freebsd import FreebsdImage
from harness.host.protocol import Host, failure, must

PARENT = "coppice"
"""The data set, directly below a pool, that holds all of our data sets."""
SNAPSHOT = "base"
_COPY = 'mkdir -p "$1" && tar -cf - -C "$0" . | tar -xf - -C "$1"'
"""tar preserves hard links: most programs of the root are one file with many names."""


class Roots(Protocol):
    """Makes roots for jails."""

    def make(self, name: str) -> tuple[str, Callable[[], None]]:
        """A new root's path, and the function that removes it."""


@dataclass(frozen=True)
class CopiedRoots:
    """Implements `Roots`: a full copy for each jail, in the run's directory."""

    host: Host
    template: str

    def make(self, name: str) -> tuple[str, Callable[[], None]]:
        root = f"{self.host.directory}/{name}"

        def remove() -> None:
            # System files of a real template are immutable, so rm alone fails.
            self.host.run(["chflags", "-R", "noschg", root])
            self.host.run(["rm", "-rf", root])

        try:
            must(self.host, ["sh", "-c", _COPY, self.template, root], timeout_s=300)
        except BaseException:
            remove()
            raise
        return root, remove


@dataclass(frozen=True)
class ClonedRoots:
    """Implements `Roots`: a clone of one snapshot for each jail, which shares unwritten blocks."""

    host: Host
    parent: str
    template: str

    def make(self, name: str) -> tuple[str, Callable[[], None]]:
        data_set = f"{self.parent}/{name}"
        must(self.host, ["zfs", "clone", f"{self.template}@{SNAPSHOT}", data_set])

        def remove() -> None:
            self.host.run(["zfs", "destroy", "-f", data_set])

        try:
            mounted = ["zfs", "get", "-H", "-o", "value", "mountpoint", data_set]
            return must(self.host, mounted).text, remove
        except BaseException:
            remove()
            raise


def cloned(host: Host, pool: str, image: FreebsdImage) -> ClonedRoots:
    """Roots on a pool; the template's snapshot is made the first time. Raises DiskFull.

    An incomplete template has no snapshot, and is made anew.
    """
    parent = f"{pool}/{PARENT}"
    template = f"{parent}/template.{image.sha256[:16]}"
    if host.run(["zfs", "list", "-H", "-t", "snapshot", f"{template}@{SNAPSHOT}"]).code == 0:
        return ClonedRoots(host, parent, template)
    host.run(["zfs", "destroy", "-r", template])
    if host.run(["zfs", "list", "-H", parent]).code:
        must(host, ["zfs", "create", "-o", f"mountpoint=/var/db/{PARENT}", parent])
    made = host.run(["zfs", "create", template])
    if made.code:
        raise failure(host, made)
    try:
        where = must(host, ["zfs", "get", "-H", "-o", "value", "mountpoint", template]).text
        must(host, ["sh", "-c", _COPY, image.root, where], timeout_s=300)
        must(host, ["zfs", "snapshot", f"{template}@{SNAPSHOT}"])
    except BaseException:
        host.run(["zfs", "destroy", "-r", template])
        raise
    return ClonedRoots(host, parent, template)
