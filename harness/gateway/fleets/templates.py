"""Templates: guests that were booted, made ready and saved before anybody asked for one.

`base` has a shell that has run before. In `code-interpreter-v1` Python waits for its first cell.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

from harness.errors import SandboxError, UsageError
from harness.gateway.data_plane.interpreter import DEFAULT, Cell, execute, start_context
from harness.gateway.envd.client import Envd
from harness.gateway.fleets import microvm, saved_vm
from harness.gateway.fleets.microvm import Kit
from harness.gateway.fleets.saved_vm import State
from harness.measure.record import Scalar

BASE, INTERPRETER = "base", "code-interpreter-v1"
NAMES = (BASE, INTERPRETER)
T = TypeVar("T")
WARM_UPS = 8
REHEARSALS = 4
LOGIN = ("/bin/bash", "-l", "-c", "echo ready")
"""How the SDK starts a command."""


def prepare(kit: Kit, cache: Path, name: str) -> State:
    """The state of a template, from the cache or made now (half a minute).

    Raises UsageError for a name that is none, and what booting and saving raise.
    """
    if name not in NAMES:
        raise UsageError(f"no template is called {name!r}; there are {', '.join(NAMES)}")
    named: dict[str, Scalar] = {**kit.facts, "template": name, "warm_ups": WARM_UPS}
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
    directory = cache / "templates" / digest
    if not directory.exists():
        _make(kit, name, directory)
    return saved_vm.load(directory, kit.facts)


def _make(kit: Kit, name: str, directory: Path) -> None:
    memory = kit.run.directory / f"memory-{name}"
    guest = microvm.boot(kit, memory)
    try:
        begin(guest, name)
        rehearse(guest, WARM_UPS)
        guest.hold()
        microvm.save_booted(guest, directory, kit)
    finally:
        guest.destroy()
        memory.unlink(missing_ok=True)


class Lined(Protocol):
    """A guest with a line to its envd."""

    id: str
    envd: socket.socket


def begin(guest: Lined, name: str) -> None:
    """Start what runs in every sandbox of a template."""
    if name == INTERPRETER:
        within(guest, lambda envd: start_context(envd, DEFAULT, "python", ""))


def within(guest: Lined, work: Callable[[Envd], Awaitable[T]]) -> T:
    """Do something with a guest's envd, from a thread without an event loop."""

    async def run() -> T:
        envd = await Envd.connect(guest.envd, guest.id)
        try:
            return await work(envd)
        finally:
            envd.close()

    return asyncio.run(run())


def rehearse(guest: Lined, times: int = REHEARSALS) -> None:
    """Once through what callers ask first: a command, and a cell where an interpreter runs."""

    async def do(envd: Envd) -> None:
        await envd.sync()
        for _ in range(times):
            _, listener = await envd.start(LOGIN)
            said = b""
            while (one := await listener.get()) and one.what != "exit":
                said += one.data
            if said != b"ready\n":
                raise SandboxError(f"a first command in {guest.id} said {said!r}")
            with contextlib.suppress(LookupError):
                cell = Cell("1+1", {}, rehearsal=True)
                async with asyncio.timeout(60):
                    async for _line in execute(envd, DEFAULT, cell):
                        pass

    within(guest, do)
