"""The options of `coppice gateway`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DISK_MIB = 1024
"""The size of a sandbox's disk, of which Debian takes some 190 MiB. Its file is sparse."""
SMALLEST_MIB, LARGEST_MIB = 256, 1 << 20
SUBSTRATES = ("qemu", "oci", "noop")


@dataclass(frozen=True)
class Options:
    """`pool` is the number of sandboxes that are kept ready for each template, `connections` that
    of connections that are open at once; half of them may come from one address. `outside` is the
    network namespace that sandboxes reach as far as their rules allow (None: only each other), and
    `resolver` the address of its resolver (None: as its owner has configured it). A sandbox has a
    disk of `disk_mib`, of which `disk_reserve_mib` are its own (None: all of it).
    `on_ready` gets the address and, with TLS, the file of the certificate; `on_filled` is called
    once the pools are full."""

    host: str = "127.0.0.1"
    port: int = 3000
    state: Path | None = None
    substrate: str = "qemu"
    pool: Mapping[str, int] | int = 4
    domain: str | None = None
    connections: int = 4096
    network: bool = True
    outside: str | None = None
    disk_mib: int = DISK_MIB
    disk_reserve_mib: int | None = None
    resolver: str | None = None
    verbose: bool = False
    tls: bool = False
    on_ready: Callable[[str, Path | None], Any] = print
    on_filled: Callable[[], Any] = bool

    def pool_size(self, template: str) -> int:
        return self.pool if isinstance(self.pool, int) else self.pool.get(template, 0)
