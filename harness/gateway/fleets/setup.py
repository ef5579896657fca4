"""Sets up the fleet of a substrate: its images, templates, network and pools."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from harness.errors import MissingPrivilege, Unsupported, UsageError
from harness.gateway.fleets import disk, microvm, network, templates
from harness.gateway.fleets.container_fleet import ContainerFleet
from harness.gateway.fleets.fd_holder import FdHolder
from harness.gateway.fleets.microvm import MicroVmSpec
from harness.gateway.fleets.microvm_fleet import MicroVmFleet
from harness.gateway.fleets.network import Network
from harness.gateway.fleets.overlays import Overlays
from harness.gateway.options import Options
from harness.guest.image import build
from harness.host.cpus import usable
from harness.host.disk_place import DiskPlace, open_place
from harness.host.memory import refuse_huge_pages
from harness.host.run import Run
from harness.network.resolver import reachable, resolver_of
from harness.network.uplink import open_outside
from harness.paths import cache_directory
from harness.sandbox.qemu.accelerator import choose

log = logging.getLogger("coppice.gateway")
PoolSize = Callable[[str], int]
"""The size of a template's pool; 0 for a template that is not offered."""


@dataclass(frozen=True)
class Disks:
    """The size of the sandboxes' disks, and the room that each is guaranteed."""

    size_mib: int
    reserved_mib: int

    def place(self, run: Run) -> DiskPlace:
        return open_place(run, self.reserved_mib << 20)


@dataclass(frozen=True)
class Outside:
    """The namespace that sandboxes reach, and its resolver; None where there is none."""

    namespace: Path | int | None
    resolver: IPv4Address | None


def container_fleet(
    run: Run,
    fd_holder: FdHolder,
    net: Network | None,
    disks: Disks,
    size: PoolSize,
    stack: ExitStack,
) -> ContainerFleet:
    fleet = ContainerFleet(run, cache_directory(), fd_holder, net, disks.place(run), disks.size_mib)
    for template in templates.NAMES:
        if size(template):
            fleet.offer(template, size(template), stack)
    return fleet


def microvm_fleet(
    run: Run,
    fd_holder: FdHolder,
    net: Network | None,
    disks: Disks,
    size: PoolSize,
    stack: ExitStack,
) -> MicroVmFleet:
    cache = cache_directory()
    spec = _spec(run, cache, disks)
    fleet = MicroVmFleet(spec, fd_holder, net)
    stack.callback(fleet.events.close)
    offered = [template for template in templates.NAMES if size(template)]
    # The first preparation of a template boots a guest, which keeps a processor busy.
    with ThreadPoolExecutor(usable()) as workers:
        list(workers.map(lambda template: templates.prepare(spec, cache, template), offered))
    for template in offered:
        fleet.offer(template, cache, size(template), stack)
    return fleet


def _spec(run: Run, cache: Path, disks: Disks) -> MicroVmSpec:
    image = build(cache, microvm.ENVD)
    chosen = choose(run, cache, image)
    facts = {"accelerator": chosen.name, "processor": chosen.cpu, "why": chosen.reason}
    log.info("microVMs have their accelerator", extra={"fields": facts})
    if chosen.name == "tcg":
        refuse_huge_pages()
    return MicroVmSpec(
        run,
        image,
        replace(chosen.shape, memory_mib=microvm.MEMORY_MIB),
        Overlays(disks.place(run), disk.base(cache, disks.size_mib)),
    )


def open_network(
    run: Run, outside: Outside, fd_holder: FdHolder, stack: ExitStack, *, needed: bool
) -> Network | None:
    """The network of a fleet; None, with a warning, where the host does not support it, no outside
    network is asked for, and it is not `needed`."""
    try:
        return stack.enter_context(
            network.opened(run, outside.namespace, outside.resolver, fd_holder)
        )
    except (Unsupported, MissingPrivilege) as error:
        if outside.namespace is not None or needed:
            raise
        log.warning("sandboxes have no network", extra={"fields": {"why": str(error)}})
        return None


def outside_of(options: Options) -> Outside:
    """The outside network that the options name. Raises UsageError."""
    if not options.outside:
        if options.resolver:
            raise UsageError("--resolver needs --outside, where the resolver is")
        return Outside(None, None)
    outside = int(options.outside) if options.outside.isdecimal() else Path(options.outside)
    os.close(open_outside(outside))
    if not options.resolver:
        resolver = resolver_of(outside)
        if resolver is None:
            log.warning(
                "sandboxes resolve no names: the outside network has no resolver that they could "
                "reach; name one with --resolver"
            )
        return Outside(outside, resolver)
    resolver = reachable(options.resolver)
    if resolver is None:
        raise UsageError(
            f"--resolver {options.resolver}: not an IPv4 address that another namespace can reach"
        )
    return Outside(outside, resolver)
