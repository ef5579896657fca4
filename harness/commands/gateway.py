"""Serve E2B's API on sandboxes of this host, or make and revoke the API keys that it asks for."""

from __future__ import annotations

import argparse
import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from harness import extras
from harness.errors import UsageError

HELP = "the E2B API over sandboxes of this host; `gateway keys` for API keys"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", choices=("serve", "keys"), default="serve")
    parser.add_argument("--state", type=Path, metavar="DIR", help="what outlives a gateway")
    serve = parser.add_argument_group("serve")
    serve.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    serve.add_argument("--port", type=int, default=3000, metavar="N", help="default: 3000")
    serve.add_argument(
        "--substrate",
        default="qemu",
        help="qemu (default), oci for containers, or noop to see what the gateway itself costs",
    )
    serve.add_argument(
        "--pool", type=int, default=4, metavar="N",
        help="sandboxes of each template that wait, restored and held (default: 4)",
    )  # fmt: skip
    serve.add_argument("--only", metavar="TEMPLATE", help="offer this template alone")
    serve.add_argument("--domain", help="sandboxes are at PORT-ID.DOMAIN too")
    serve.add_argument(
        "--tls", action="store_true",
        help="https, with a certificate of its own making: for SDKs that insist on it",
    )  # fmt: skip
    serve.add_argument("--no-network", action="store_true", help="no card is plugged in")
    serve.add_argument(
        "--outside", metavar="NAMESPACE", help="path or process whose network they may reach"
    )
    serve.add_argument("--verbose", action="store_true", help="a line for every request")
    keys = parser.add_argument_group("keys")
    keys.add_argument("--new", metavar="NAME", help="make a key; its secret is shown once")
    keys.add_argument("--revoke", metavar="ID", help="a key's id, from the list")
    keys.add_argument("--sandboxes", type=int, metavar="N", help="a new key's limit")
    keys.add_argument("--memory-mib", type=int, metavar="N", help="a new key's limit")
    keys.add_argument("--rate", type=float, metavar="N", help="a new key's requests a second")


def main(options: argparse.Namespace) -> int:
    try:
        # Here, not above: a rig host has no web server, and its other commands must work.
        from harness.gateway import server
    except ModuleNotFoundError as error:
        raise extras.missing("the gateway", error) from error
    if options.what == "keys":
        return _keys(options)

    def ready(address: str, certificate: Path | None) -> None:
        print(f"{address} (Ctrl-C ends)", flush=True)
        believed = f" SSL_CERT_FILE={certificate}" if certificate else ""
        words = f"E2B_API_URL={address} E2B_SANDBOX_URL={address}{believed} E2B_API_KEY=..."
        print(f"  {words}", flush=True)

    pool = {options.only: options.pool} if options.only else options.pool
    server.serve(
        server.Options(
            host=options.host, port=options.port, state=options.state,
            substrate=options.substrate, pool=pool, domain=options.domain,
            plugged=not options.no_network, outside=options.outside, verbose=options.verbose,
            tls=options.tls, ready=ready,
        )
    )  # fmt: skip
    return 0


def _keys(options: argparse.Namespace) -> int:
    from harness.gateway.sandboxes.store import Limits, opened
    from harness.gateway.server import FILE, state_directory

    # A gateway that runs need not be told: it looks into the same file.
    with opened((options.state or state_directory()) / FILE) as store:
        if options.new is not None:
            given = {name: getattr(options, name) for name in ("sandboxes", "memory_mib", "rate")}
            chosen = {name: value for name, value in given.items() if value is not None}
            key, secret = store.new_key(options.new, dataclasses.replace(Limits(), **chosen))
            print(f"{secret}\n  key {key.id} ({key.name}); this is shown once, keep it")
        elif options.revoke is not None:
            if not store.revoke(options.revoke):
                raise UsageError(f"no key has the id {options.revoke!r}, or it is revoked already")
            print(f"revoked {options.revoke}")
        else:
            for key in store.all_keys():
                made = datetime.fromtimestamp(key.created, UTC)
                state = "revoked" if key.revoked else f"{key.limits.sandboxes} sandboxes at most"
                print(f"{key.id}  {key.mask}  {made:%Y-%m-%d}  {state}  {key.name}")
    return 0
