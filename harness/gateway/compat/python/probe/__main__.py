"""Calls every method of the E2B SDK of this interpreter, and checks the results.

    probe sync|async [--surface] [--template T] [--tag NAME=VALUE] [--apart SECONDS]

The rig runs it in an environment with one version of the SDK and imports nothing else. For each
method (surface.py) it writes a line of JSON, {method, kind, reason}; `kind` is null if the method
works. A method without a probe has the kind "failed". With `sync`, operations of the service that
no method uses follow, as {operation, plane, kind, reason}. --surface only lists the methods, with
those that have no probe: {method, probed}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys

import commands
import files
import git
import interpreter
import platform_objects
import sandboxes
import surface
import wire
from registry import PROBES, Absent, Unavailable
from verdicts import DIFFERS, Exchanges, judged
from world import World

PARTS = (sandboxes, commands, files, git, interpreter, platform_objects)
"""Importing them registers their probes."""


def resolve_localhost():
    """Map names below localhost to this host (RFC 6761), which some resolvers do not. SDKs that
    require HTTPS use such names for sandboxes."""
    original = socket.getaddrinfo

    def resolve(host, *rest, **more):
        name = host.decode() if isinstance(host, bytes) else host
        below = isinstance(name, str) and name.endswith(".localhost")
        return original("127.0.0.1" if below else host, *rest, **more)

    socket.getaddrinfo = resolve


def completed(coroutine):
    """The result of a coroutine that never waits, as those over synchronous classes."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("a probe of the synchronous classes waits for something")


async def verdict(world, name, run):
    """The kind and reason of one probe; kind None if the method works."""
    try:
        await world.begin()
        world.exchanges.taken()
        await run(world)
    except Absent:
        raise
    except Unavailable as error:
        return error.kind, error.reason_for(name)
    except Exception as error:
        seen = world.exchanges.taken()
        if await world.is_alive():
            return judged(error, seen, True)
        world.lost()
        return DIFFERS, f"the sandbox is gone; {judged(error, seen, False)[1]}"
    return None, ""


async def all_verdicts(world, methods, write):
    ordered = [name for name in PROBES if name in methods]
    for name in ordered:
        kind, reason = await verdict(world, name, PROBES[name])
        write({"method": name, "kind": kind, "reason": reason})
    for name in sorted(set(methods) - set(ordered)):
        write({"method": name, "kind": "failed", "reason": "not probed"})
    if not world.asynchronous:
        for operation, plane, run in wire.OPERATIONS:
            try:
                kind, reason = await verdict(world, operation, run)
            except Absent:
                continue
            write({"operation": operation, "plane": plane, "kind": kind, "reason": reason})
    await world.end()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("classes", choices=("sync", "async"))
    parser.add_argument("--surface", action="store_true")
    parser.add_argument("--template")
    parser.add_argument("--tag", default="probe-of=coppice")
    parser.add_argument("--apart", type=float, default=0.0)
    options = parser.parse_args()
    asynchronous = options.classes == "async"
    output, sys.stdout = sys.stdout, sys.stderr

    def write(line):
        print(json.dumps(line), file=output, flush=True)

    methods = surface.methods(asynchronous)
    if options.surface:
        for name in methods:
            write({"method": name, "probed": name in PROBES})
        return
    resolve_localhost()
    name, _, value = options.tag.partition("=")
    world = World(asynchronous, {name: value}, options.template, options.apart, Exchanges())
    run = all_verdicts(world, methods, write)
    if asynchronous:
        asyncio.run(run)
    else:
        completed(run)


if __name__ == "__main__":
    main()
