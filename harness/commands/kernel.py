"""Build a slim kernel for guests, and list the kernels that are there.

coppice kernel build    from the distribution's source package; about ten minutes on two processors
coppice kernel list     the kernels in the cache

The slim kernel has built in what guests of a microVM need, and nothing else. Guests start with it
where --kernel slim or COPPICE_KERNEL=slim asks for it. It is built anew when apt offers another
source, or when the configuration or the compiler is another one.

With COPPICE_HOST set, it works on that host.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from harness.guest import kernel
from harness.guest.kernel_build import slim
from harness.guest.kernel_choice import DISTRIBUTION
from harness.host.session import open_run
from harness.paths import cache_directory

HELP = "build a slim kernel for guests, or list the kernels that are there"
MIB = 1 << 20


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="ACTION", help="build or list"
    )
    actions.add_parser("build", help="build the slim kernel, unless it is there")
    actions.add_parser("list", help="list the kernels in the cache")


def main(options: argparse.Namespace) -> int:
    """Always 0; see `slim.build` for what it raises."""
    return _build() if options.action == "build" else _list()


def main_remote(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Work on the host that COPPICE_HOST names, whose guests start with the kernel."""
    from harness.remote import remote_run

    return remote_run.run_remotely(remote_run.address(), argv, None)


def _build() -> int:
    with open_run() as run:
        built, new = slim.build(run, cache_directory())
    print(f"{built.version}: {'built' if new else 'is there already'}, {built.vmlinux}")
    print("coppice run cold-start --kernel slim,distribution")
    return 0


def _list() -> int:
    cache = cache_directory()
    found = [(one.name, DISTRIBUTION, one / "vmlinux") for one in kernel.kept(cache)]
    found += [
        (one.version, "slim" if one.current else "slim, of an older configuration", one.vmlinux)
        for one in slim.kept(cache)
    ]
    for name, choice, vmlinux in found:
        print(f"{choice:12}  {vmlinux.stat().st_size / MIB:6.1f} MiB  {name}")
    if not found:
        print(f"no kernel is in {cache}; the first run fetches one", file=sys.stderr)
    return 0
