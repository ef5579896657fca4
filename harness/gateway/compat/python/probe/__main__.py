"""Calls every operation through the E2B SDK that this interpreter has, and checks what comes back.

Run by the rig in an environment of one version of the SDK; only that SDK is imported. Writes one
line of JSON for each operation: {operation, plane, works} with a `message` of the SDK where it does
not, or {operation, plane, absent} where this version of the SDK has no such call.
"""

from __future__ import annotations

import json
import socket
import sys
import traceback

import control
import envd
import interpreter
from checks import CHECKS, Absent
from e2b_code_interpreter import Sandbox

PARTS = (control, envd, interpreter)
"""Each adds its checks when it is imported; they run in this order."""


class World:
    """Sandboxes that the checks share."""

    def __init__(self):
        self.one = Sandbox.create(metadata={"probe": "one"}, timeout=600)

    def end(self):
        self.one.kill()


def know_localhost():
    """Names below localhost are this host (RFC 6761); some resolvers do not know, and a test host
    has no DNS of its own. An SDK that insists on https names its sandboxes so."""
    usual = socket.getaddrinfo

    def resolve(host, *rest, **more):
        name = host.decode() if isinstance(host, bytes) else host
        below = isinstance(name, str) and name.endswith(".localhost")
        return usual("127.0.0.1" if below else host, *rest, **more)

    socket.getaddrinfo = resolve


def main():
    know_localhost()
    said = sys.stdout
    sys.stdout = sys.stderr
    world, broken = None, ""
    try:
        world = World()
    except Exception as error:
        broken = f"{type(error).__name__}: {error}"
    for operation, plane, function in CHECKS:
        line = {"operation": operation, "plane": plane}
        try:
            if world is None:
                raise AssertionError(f"no sandbox: {broken}")
            function(world)
            line["works"] = True
        except Absent:
            line["absent"] = True
        except Exception as error:
            line["works"] = False
            text = str(error) or traceback.format_exc().strip().splitlines()[-2].strip()
            line["message"] = f"{type(error).__name__}: {text}"[:600]
        print(json.dumps(line), file=said, flush=True)
    if world:
        world.end()


if __name__ == "__main__":
    main()
