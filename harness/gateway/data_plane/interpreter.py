"""The code interpreter: contexts are processes of the sandbox, told apart by their labels.

What a cell says comes as lines of JSON from guest/interpreter.py and goes on as it is. Contexts
live in the guest and nowhere else, so they are there after a pause, in a fork, and after a restart.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from harness.errors import GuestDied
from harness.gateway.envd.client import Envd, Listener, RunningProcess
from harness.gateway.fleets.disk import INTERPRETER

DEFAULT = "default"
MARK = "coppice-context"
HOME = "/home/user"
WORDS = ("/usr/bin/python3", "-X", "utf8", f"/{INTERPRETER}")
PYTHON = ("python", "python3", None, "")


@dataclass(frozen=True)
class Context:
    id: str
    language: str
    cwd: str
    process: RunningProcess

    def as_json(self) -> Mapping[str, str]:
        return {"id": self.id, "language": self.language, "cwd": self.cwd}


@dataclass(frozen=True)
class Cell:
    """Code and the environment of its run. A `rehearsal` leaves no trace in the context."""

    code: str
    environment: Mapping[str, str]
    rehearsal: bool = False


def contexts(envd: Envd) -> list[Context]:
    """Those of the processes that the gateway knows (`Envd.sync`)."""
    found = []
    for process in envd.processes.values():
        mark, _, rest = process.label.partition(" ")
        if mark == MARK:
            id, language = rest.split(" ", 1)
            found.append(Context(id, language, process.cwd, process))
    return found


def context(envd: Envd, id: str) -> Context:
    """LookupError when there is none of this id."""
    for one in contexts(envd):
        if one.id == id:
            return one
    raise LookupError(f"context {id} was not found")


async def start_context(envd: Envd, id: str, language: str, cwd: str) -> Context:
    """Start an interpreter and wait until it takes cells."""
    process, listener = await envd.start(
        WORDS, cwd=cwd or HOME, label=f"{MARK} {id} {language}", keep_input=True
    )
    try:
        async with asyncio.timeout(60):
            async for _ in Answers(listener).until("ready"):
                pass
    finally:
        listener.close()
    return Context(id, language, cwd or HOME, process)


def new_id() -> str:
    return secrets.token_hex(8)


async def execute(envd: Envd, id: str, cell: Cell) -> AsyncIterator[bytes]:
    """Run a cell; its lines as they come. LookupError when there is no such context.

    When the caller goes away the cell is interrupted.
    """
    one = context(envd, id)
    number = secrets.token_hex(8)
    request = {"code": cell.code, "envs": dict(cell.environment), "rehearsal": cell.rehearsal,
               "cell": number}  # fmt: skip
    begins = json.dumps({"type": "begin", "cell": number}).encode()
    listener = one.process.listen()
    begun = ended = False
    try:
        await envd.input(one.process.pid, json.dumps(request).encode() + b"\n")
        # What comes before is of a cell that somebody else runs, or has left.
        answers = Answers(listener)
        while not begun:
            async for line in answers.until("begin"):
                begun = line.startswith(begins)
        async for line in answers.until("end_of_execution"):
            yield line
        ended = True
    finally:
        listener.close()
        if begun and not ended and not envd.gone and not one.process.ended:
            await envd.signal(one.process.pid, 2)


class Answers:
    """Whole lines of what an interpreter says."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._whole: deque[bytes] = deque()
        self._rest = b""

    async def until(self, last: str) -> AsyncIterator[bytes]:
        """The lines up to the one of type `last`, and that one."""
        final = f'{{"type": "{last}"'.encode()
        while True:
            while self._whole:
                line = self._whole.popleft()
                yield line + b"\n"
                if line.startswith(final):
                    return
            one = await self._listener.get()
            if one is None:
                raise GuestDied("the sandbox is gone")
            if one.what == "exit":
                how = f"signal {one.signal}" if one.signal else f"exit code {one.code}"
                raise GuestDied(f"the interpreter ended with {how}")
            if one.what == "stdout":
                *whole, self._rest = (self._rest + one.data).split(b"\n")
                self._whole.extend(whole)
