"""A sandbox's /etc/resolv.conf."""

from __future__ import annotations

import contextlib
import errno
from ipaddress import IPv4Address

from harness.errors import GuestRefused
from harness.gateway.envd.client import Envd

PATH = "/etc/resolv.conf"
MARK = b"# Written by coppice; it leaves a file without this line alone.\n"


async def write_resolver(envd: Envd, resolver: IPv4Address | None) -> None:
    """Name the resolver, unless the sandbox's users have a file of their own."""
    wanted = MARK + f"nameserver {resolver}\n".encode() if resolver else b""
    # A directory, or what else a sandbox may have made of it, is its own affair.
    with contextlib.suppress(GuestRefused):
        there = await _content(envd)
        if there != wanted and (not there.strip() or there.startswith(MARK)):
            opened = await envd.open(PATH, "root", write=True)
            try:
                if wanted:
                    await envd.write(opened.handle, wanted, len(wanted))
            finally:
                await envd.close_handle(opened.handle)


async def _content(envd: Envd) -> bytes:
    try:
        opened = await envd.open(PATH, "root")
    except GuestRefused as error:
        if error.number == errno.ENOENT:
            return b""
        raise
    try:
        return await envd.read(opened.handle, 0)
    finally:
        await envd.close_handle(opened.handle)
