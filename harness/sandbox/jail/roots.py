"""Where a jail's root comes from: a copy of the template, or a clone of its ZFS snapshot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from harness.guest.freebsd import FreebsdImage
from harness.host.protocol import Host, failure, must

PARENT = "coppice"
"""The data set below a pool that holds all of ours."""
SNAPSHOT = "base"
_COPY = 'mkdir -p "$1" && tar -cf - -C "$0" . | tar -xf - -C "$1"'
"""tar keeps the one program under many names one file."""


class Roots(Protocol):
    """Makes roots for jails."""

    def make(self, name: str) -> tuple[str, Callable[[], None]]:
        """A root of a jail's own, and what takes it away again."""


@dataclass(frozen=True)
class CopiedRoots:
    """Implements `Roots`: a whole copy each, in the run's directory."""

    host: Host
    template: str

    def make(self, name: str) -> tuple[str, Callable[[], None]]:
        root = f"{self.host.directory}/{name}"

        def remove() -> None:
            # System files of a real template are immutable, and rm is refused them.
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
    """Implements `Roots`: a clone each of one snapshot, which shares every block not written to."""

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
    """The template as a snapshot on a pool, made the first time. Raises DiskFull.

    A half-made one has no snapshot, and is made anew.
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
