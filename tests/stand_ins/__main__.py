"""Serves a stand-in for a foreign sandbox service, for trials by hand. It prints its address, its
key, and the variables with which the SDK uses it, and serves until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import signal
import ssl
import sys
import tempfile
from pathlib import Path

from tests.stand_ins.behaviours import NAMED, behaviour, parsed
from tests.stand_ins.server import StandIn
from tests.stand_ins.service import COUNTS, Service


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stand_ins", description=__doc__)
    parser.add_argument(
        "--behaviour", default="honest", metavar="NAME[,NAME...]", help=", ".join(NAMED)
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SETTING=VALUE",
        help="a setting besides, such as boot_s=0.2,0.3 (see tests/stand_ins/behaviours.py)",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--key", default=f"e2b_{secrets.token_hex(20)}")
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"), help="files in PEM")
    options = parser.parse_args()
    try:
        wanted = behaviour(options.behaviour, **dict(map(parsed, options.set)))
    except ValueError as wrong:
        parser.error(str(wrong))
    with tempfile.TemporaryDirectory(prefix="stand-in-") as directory:
        service = Service(wanted, options.key, Path(directory))
        asyncio.run(_serve(StandIn(service), options))
    return 0


async def _serve(stand_in: StandIn, options: argparse.Namespace) -> None:
    tls = None
    if options.tls:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*options.tls)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stand_in.open(options.host, options.port, tls)
    address = f"http{'s' if tls else ''}://{options.host}:{stand_in.port}"
    print(f"{address} (a stand-in that is {options.behaviour}; stop with Ctrl-C)")
    print(f"  E2B_API_URL={address} E2B_SANDBOX_URL={address} E2B_API_KEY={options.key}")
    print(f"  what it has done: {address}{COUNTS}", flush=True)
    await stopped.wait()
    await stand_in.close()
    counts = stand_in.service.counts()
    with contextlib.suppress(OSError):
        print(f"  made {counts['made']}, deleted {counts['deleted']}, "
              f"left {len(counts['alive'])}", flush=True)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
