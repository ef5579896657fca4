"""Calls every operation through the E2B SDK of this interpreter, and checks the results.

The rig runs it in an environment with one version of the SDK and imports nothing else. For each
operation it writes a line of JSON: {operation, plane, works}, with the SDK's `message` on failure,
or {operation, plane, absent} if this version of the SDK has no such call.
"""

from __future__ import annotations

import json
import socket
import sys
import traceback

import control
import envd
import interpreter
from checks import CHECKS, ODD, ODD_NAME, Absent
from e2b_code_interpreter import Sandbox

PARTS = (control, envd, interpreter)
"""Importing them registers their checks, which run in this order."""


class World:
    """The sandbox that the checks share."""

    def __init__(self):
        self.metadata = {"probe": "one", ODD_NAME: ODD}
        self.one = Sandbox.create(metadata=self.metadata, timeout=600)

    def end(self):
        self.one.kill()


def resolve_localhost():
    """Map names below localhost to this host (RFC 6761), which some resolvers do not. SDKs that
    require HTTPS use such names for sandboxes."""
    original = socket.getaddrinfo

    def resolve(host, *rest, **more):
        name = host.decode() if isinstance(host, bytes) else host
        below = isinstance(name, str) and name.endswith(".localhost")
        return original("127.0.0.1" if below else host, *rest, **more)

    socket.getaddrinfo = resolve


def main():
    resolve_localhost()
    output = sys.stdout
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
        print(json.dumps(line), file=output, flush=True)
    if world:
        world.end()


if __name__ == "__main__":
    main()
