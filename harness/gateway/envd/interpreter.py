"""The code interpreter: its contexts are processes of the sandbox, identified by their labels.

A cell's output arrives as lines of JSON from guest/interpreter.py and is passed on unchanged. The
contexts exist in the guest only, so they survive a pause, a fork and a restart of the gateway.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from harness.errors import GuestDied
from harness.gateway.envd.client import Envd
from harness.gateway.envd.process import Listener, RunningProcess

DEFAULT = "default"
LABEL = "coppice-context"
HOME = "/home/user"
PROGRAM = "usr/local/lib/coppice/interpreter.py"
"""Of guest/interpreter.py, below a sandbox's root."""
ARGV = ("/usr/bin/python3", "-X", "utf8", f"/{PROGRAM}")
PYTHON = ("python", "python3", None, "")
LINES_AT_ONCE = 64
HEAD_BYTES = 64
"""Bytes of a line that tell its type, and the cell that it begins."""


@dataclass(frozen=True)
class Context:
    id: str
    language: str
    cwd: str
    process: RunningProcess

    def as_json(self) -> Mapping[str, str]:
        return {"id": self.id, "language": self.language, "cwd": self.cwd}


@dataclass(frozen=True)
class CodeCell:
    """Code and the environment it runs in. A `rehearsal` leaves the context as it was."""

    code: str
    environment: Mapping[str, str]
    rehearsal: bool = False


def contexts(envd: Envd) -> list[Context]:
    """The contexts among the processes that the gateway knows (see `Envd.sync`)."""
    found = []
    for process in envd.processes.values():
        label, _, rest = process.label.partition(" ")
        if label == LABEL:
            id, _, language = rest.partition(" ")
            found.append(Context(id, language, process.cwd, process))
    return found


def context(envd: Envd, id: str) -> Context:
    """Raises LookupError for an unknown id."""
    for candidate in contexts(envd):
        if candidate.id == id:
            return candidate
    raise LookupError(f"context {id} was not found")


async def start_context(envd: Envd, id: str, language: str, cwd: str) -> Context:
    """Start an interpreter and wait until it accepts cells."""
    process, listener = await envd.start(
        ARGV, cwd=cwd or HOME, label=f"{LABEL} {id} {language}", keep_input=True
    )
    try:
        async with asyncio.timeout(60):
            async for _ in InterpreterLines(listener).until("ready"):
                pass
    finally:
        listener.close()
    return Context(id, language, cwd or HOME, process)


def new_id() -> str:
    return secrets.token_hex(8)


async def execute(envd: Envd, id: str, cell: CodeCell) -> AsyncIterator[bytes]:
    """Run a cell; its lines as they arrive. Raises LookupError for an unknown context.

    The cell is interrupted if the caller leaves.
    """
    process = context(envd, id).process
    number = secrets.token_hex(8)
    request = {"code": cell.code, "envs": dict(cell.environment), "rehearsal": cell.rehearsal,
               "cell": number}  # fmt: skip
    begin_line = json.dumps({"type": "begin", "cell": number}).encode()
    listener = process.listen()
    begun = ended = False
    try:
        await envd.input(process.pid, json.dumps(request).encode() + b"\n")
        # Earlier lines belong to another caller's cell, or to a cell whose caller left.
        lines = InterpreterLines(listener)
        while not begun:
            async for line in lines.until("begin"):
                begun = line.startswith(begin_line)
        async for line in lines.until("end_of_execution"):
            yield line
        ended = True
    finally:
        listener.close()
        if begun and not ended and not envd.gone and not process.ended:
            await envd.signal(process.pid, 2)


class InterpreterLines:
    """What an interpreter writes, in pieces: lines of any length pass without being kept."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._pieces: deque[bytes] = deque()
        self._rest = b""
        self._in_line = False
        """Whether the beginning of the present line was passed on already."""

    async def until(self, last: str) -> AsyncIterator[bytes]:
        """The lines up to and including the next of type `last`; each line begins a piece."""
        prefix = f'{{"type": "{last}"'.encode()
        is_last = False
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                if not self._in_line:
                    is_last = piece.startswith(prefix)
                self._in_line = not piece.endswith(b"\n")
                yield piece
                if is_last and not self._in_line:
                    return
                if len(self._pieces) % LINES_AT_ONCE == LINES_AT_ONCE - 1:
                    await asyncio.sleep(0)  # other sandboxes have their turn
            await self._read()

    async def _read(self) -> None:
        event = await self._listener.get()
        if event.kind == "exit":
            how = f"signal {event.signal}" if event.signal else f"exit code {event.code}"
            raise GuestDied(f"the interpreter ended with {how}")
        if event.kind == "stdout":
            *complete, self._rest = (self._rest + event.data).split(b"\n")
            self._pieces.extend(line + b"\n" for line in complete)
            goes_on = self._in_line and not complete
            if self._rest and (goes_on or len(self._rest) >= HEAD_BYTES):
                self._pieces.append(self._rest)
                self._rest = b""
