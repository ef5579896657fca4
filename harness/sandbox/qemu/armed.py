"""Waits until a guest has reached its doorbell loop.

A kernel may print on the doorbell's UART too. What it prints is skipped, and shown when the guest
does not come: no text contains the bytes that an armed guest sends.
"""

from __future__ import annotations

import socket
import time

from harness.errors import GuestTimeout
from harness.guest.protocol import MASKED, UNMASKED

KEPT = 4096
"""Last bytes of a guest's noise that are kept: it may print without end."""
SHOWN = 400


def await_armed(bell: socket.socket, name: str, limit_s: float) -> bool | None:
    """Whether the armed guest has masked its interrupts; None when its VMM has closed the bell.

    Raises GuestTimeout with the end of what it printed instead.
    """
    printed, deadline = b"", time.monotonic() + limit_s
    while (left := deadline - time.monotonic()) > 0:
        bell.settimeout(left)
        try:
            piece = bell.recv(KEPT)
        except TimeoutError:
            break
        except ConnectionError:
            return None
        if not piece:
            return None
        printed = (printed + piece)[-KEPT:]
        for told, masked in ((MASKED, True), (UNMASKED, False)):
            if told in printed:
                return masked
    text = printed[-SHOWN:].decode(errors="replace").strip()
    raise GuestTimeout(
        f"{name} did not reach its doorbell in {limit_s:g} s"
        + (f"; it printed: {text}" if text else "")
    )
