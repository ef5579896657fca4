"""Serves E2B's API for sandboxes on this host, and manages its API keys."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from harness import extras
from harness.errors import UsageError
from harness.host import disk_place
from harness.paths import gateway_directory, runtime_directory

HELP = "serve the E2B API for sandboxes on this host; `gateway keys` manages API keys"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="?",
        choices=("serve", "keys"),
        default="serve",
        help="serve (default), or manage API keys",
    )
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="the directory of the gateway's persistent state"
    )
    serve = parser.add_argument_group("serve")
    serve.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    serve.add_argument("--port", type=int, default=3000, metavar="N", help="default: 3000")
    serve.add_argument(
        "--substrate",
        default="qemu",
        help="qemu (default), oci for containers, or noop to measure the gateway alone",
    )
    serve.add_argument(
        "--pool", type=int, default=4, metavar="N",
        help="sandboxes to keep ready for each template, restored and stopped (default: 4)",
    )  # fmt: skip
    serve.add_argument("--only", metavar="TEMPLATE", help="offer only this template")
    serve.add_argument(
        "--connections", type=int, default=4096, metavar="N",
        help="connections open at once, at most half of them from one address (default: 4096)",
    )  # fmt: skip
    serve.add_argument(
        "--domain",
        help="the domain of sandboxes' host names, PORT-ID.DOMAIN, as clients reach it "
        "(default on this host: sandboxes.localhost and the port; none for other hosts)",
    )
    serve.add_argument(
        "--tls", action="store_true",
        help="serve HTTPS with a self-signed certificate, for SDKs that require it",
    )  # fmt: skip
    serve.add_argument(
        "--no-network", action="store_true", help="give sandboxes no network interface"
    )
    serve.add_argument(
        "--outside", metavar="NAMESPACE",
        help="the network namespace that sandboxes may reach: its path, or the PID of a process",
    )  # fmt: skip
    serve.add_argument(
        "--disk", type=int, metavar="MIB",
        help="the size of a sandbox's disk (default: 1024); COPPICE_DISKS chooses where disks lie",
    )  # fmt: skip
    serve.add_argument(
        "--disk-reserve", type=int, metavar="MIB",
        help="the room that is reserved for each disk (default: all of it); with less, more "
             "sandboxes fit, and one that needs more when no room is left gets I/O errors",
    )  # fmt: skip
    serve.add_argument(
        "--resolver", metavar="ADDRESS",
        help="the resolver that sandboxes ask for names (default: that of the outside network's "
             "resolv.conf)",
    )  # fmt: skip
    serve.add_argument("--verbose", action="store_true", help="log each request")
    keys = parser.add_argument_group("keys")
    keys.add_argument("--new", metavar="NAME", help="create a key; its secret is shown only once")
    keys.add_argument("--revoke", metavar="ID", help="revoke the key with this id from the list")
    keys.add_argument("--sandboxes", type=int, metavar="N", help="a new key's limit of sandboxes")
    keys.add_argument("--memory-mib", type=int, metavar="N", help="a new key's limit of memory")
    keys.add_argument(
        "--rate", type=float, metavar="N", help="a new key's limit of requests per second"
    )


def main(options: argparse.Namespace) -> int:
    try:
        # Not at the top: hosts without a web server must be able to run the other commands.
        from harness.gateway import server
        from harness.gateway.options import DISK_MIB, LARGEST_MIB, SMALLEST_MIB, Options
    except ModuleNotFoundError as error:
        raise extras.missing("the gateway", error) from error
    if options.what == "keys":
        return _keys(options)

    def on_ready(address: str, certificate: Path | None) -> None:
        print(f"{address} (stop with Ctrl-C)", flush=True)
        trust = f" SSL_CERT_FILE={certificate}" if certificate else ""
        variables = f"E2B_API_URL={address} E2B_SANDBOX_URL={address}{trust} E2B_API_KEY=..."
        print(f"  {variables}", flush=True)

    def on_filled() -> None:
        # Not before: what the pools are forked from has disks too.
        if options.substrate != "noop":
            place = disk_place.described(runtime_directory(), reserved)
            with contextlib.suppress(OSError):  # the reader may have gone
                print(f"  disks: {place} besides the pool", flush=True)

    size = DISK_MIB if options.disk is None else options.disk
    reserved = size if options.disk_reserve is None else options.disk_reserve
    if not SMALLEST_MIB <= size <= LARGEST_MIB:
        raise UsageError(
            f"a disk has {SMALLEST_MIB} to {LARGEST_MIB} MiB, not {size}",
            hint="coppice gateway --disk MIB",
        )
    if not 0 < reserved <= size:
        raise UsageError(
            f"a disk of {size} MiB cannot have {reserved} MiB reserved",
            hint=f"coppice gateway --disk-reserve MIB   (1 to {size})",
        )
    pool = {options.only: options.pool} if options.only else options.pool
    server.serve(
        Options(
            host=options.host, port=options.port, state=options.state,
            substrate=options.substrate, pool=pool, domain=options.domain,
            connections=options.connections, network=not options.no_network,
            outside=options.outside, resolver=options.resolver, verbose=options.verbose,
            tls=options.tls, disk_mib=size, disk_reserve_mib=reserved, on_ready=on_ready,
            on_filled=on_filled,
        )
    )  # fmt: skip
    return 0


def _keys(options: argparse.Namespace) -> int:
    from harness.gateway.sandboxes.store import FILE, Limits, opened

    # A running gateway reads the same database, so it need not be notified.
    with opened((options.state or gateway_directory()) / FILE) as store:
        if options.new is not None:
            given = {name: getattr(options, name) for name in ("sandboxes", "memory_mib", "rate")}
            chosen = {name: value for name, value in given.items() if value is not None}
            key, secret = store.new_key(options.new, dataclasses.replace(Limits(), **chosen))
            print(f"{secret}\n  key {key.id} ({key.name}); keep it: it is not shown again")
        elif options.revoke is not None:
            if not store.revoke(options.revoke):
                raise UsageError(
                    f"no valid key has the id {options.revoke!r}",
                    hint="coppice gateway keys   (lists the keys and their ids)",
                )
            print(f"revoked {options.revoke}")
        else:
            for key in store.all_keys():
                created = datetime.fromtimestamp(key.created, UTC)
                state = "revoked" if key.revoked else f"{key.limits.sandboxes} sandboxes at most"
                print(f"{key.id}  {key.mask}  {created:%Y-%m-%d}  {state}  {key.name}")
    return 0
