"""Templates: microVMs that were booted, warmed up and saved in advance.

In `base` a shell has run before. In `code-interpreter-v1` Python waits for its first cell.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

from harness.errors import SandboxError, UsageError
from harness.gateway.envd.client import Envd
from harness.gateway.envd.interpreter import (
    DEFAULT,
    CodeCell,
    contexts,
    execute,
    start_context,
)
from harness.gateway.fleets import microvm, saved_vm
from harness.gateway.fleets.microvm import MicroVmSpec
from harness.gateway.fleets.saved_vm import SavedVm
from harness.host.cache import entry
from harness.measure.record import Scalar

BASE, INTERPRETER = "base", "code-interpreter-v1"
NAMES = (BASE, INTERPRETER)
T = TypeVar("T")
WARM_UPS = 8
SAVED = "saved"
"""In the cache's entry of a template: the saved microVM."""
REHEARSALS = 4
REHEARSED = ("1/0", "1+1")
"""Cells: a first error takes long, since IPython imports what it needs for it."""
LOGIN_ARGV = ("/bin/bash", "-l", "-c", "echo ready")
"""As the SDK starts a command."""


def prepare(spec: MicroVmSpec, cache: Path, name: str) -> SavedVm:
    """The saved microVM of a template, from the cache or made now (half a minute).

    Raises UsageError for an unknown name, and what booting and saving raise.
    """
    if name not in NAMES:
        raise UsageError(f"there is no template {name!r}; the templates are {', '.join(NAMES)}")
    inputs: dict[str, Scalar] = {**spec.facts, **spec.shape.of_host, "template": name}
    inputs["warm_ups"] = WARM_UPS
    inputs["rehearsed"] = " ".join(REHEARSED)
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    target = cache / "saved-templates" / digest
    made = entry(target, lambda directory: _make(spec, name, directory / SAVED))
    return saved_vm.load(made / SAVED, spec.facts, spec.shape.processor)


def _make(spec: MicroVmSpec, name: str, directory: Path) -> None:
    # In the cache, which has room for what comes of it: the run's directory is often in memory.
    memory = directory.parent / "booted"
    guest = microvm.boot(spec, memory)
    try:
        start_processes(guest, name)
        rehearse(guest, WARM_UPS)
        guest.stop()
        guest.save_booted(directory)
    finally:
        guest.destroy()
        memory.unlink(missing_ok=True)


class HasEnvd(Protocol):
    """A guest with a channel to its envd: a microVM or a container."""

    id: str
    envd: socket.socket


def start_processes(guest: HasEnvd, name: str) -> None:
    """Start the processes that every sandbox of a template runs."""
    if name == INTERPRETER:
        with_envd(guest, lambda envd: start_context(envd, DEFAULT, "python", ""))


def with_envd(guest: HasEnvd, work: Callable[[Envd], Awaitable[T]]) -> T:
    """Use a guest's envd from a thread that has no event loop."""

    async def run() -> T:
        envd = await Envd.connect(guest.envd, guest.id)
        try:
            return await work(envd)
        finally:
            envd.close()

    return asyncio.run(run())


def rehearse(guest: HasEnvd, times: int = REHEARSALS) -> None:
    """Do what callers do first: run a command, and a cell where an interpreter runs."""

    async def run(envd: Envd) -> None:
        await envd.sync()
        for _ in range(times):
            _, listener = await envd.start(LOGIN_ARGV)
            output = b""
            while (event := await listener.get()).kind != "exit":
                output += event.data
            if output != b"ready\n":
                raise SandboxError(f"the rehearsed command in {guest.id} printed {output!r}")
            if any(context.id == DEFAULT for context in contexts(envd)):
                for code in REHEARSED:
                    cell = CodeCell(code, {}, rehearsal=True)
                    async with asyncio.timeout(60):
                        async for _line in execute(envd, DEFAULT, cell):
                            pass

    with_envd(guest, run)
