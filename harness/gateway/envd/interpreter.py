"""The code interpreter: its contexts are processes of the sandbox, identified by their labels.

A cell's output arrives as lines of JSON from guest/interpreter and is passed on unchanged. The
contexts exist in the guest, so they survive a pause, a fork and a restart of the gateway. One whose
process ends is started again, with its id and directory; `Envd.contexts` remembers it until then.

A caller who leaves ends the cell: by SIGINT, as the interrupt of Jupyter, and if it has not ended
INTERRUPT_S later by SIGKILL of the interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, replace

from harness.errors import GuestRefused, GuestTimeout, InterpreterEnded, SandboxError
from harness.gateway.envd.client import Envd
from harness.gateway.envd.process import Context, Listener, ProcessEvent, RunningProcess

log = logging.getLogger("coppice.gateway")
DEFAULT = "default"
LABEL = "coppice-context"
HOME = "/home/user"
PROGRAM = "usr/local/lib/coppice/interpreter"
"""The directory of guest/interpreter, below a sandbox's root."""
ARGV = ("/usr/bin/python3", "-X", "utf8", f"/{PROGRAM}")
PYTHON = ("python", "python3", None, "")
LINES_AT_ONCE = 64
WHOLE_BYTES = 128 << 10
"""A line up to this length is passed on whole, so that an interpreter that ends in the middle of it
leaves no part of it. Output is never longer (guest/interpreter/cell_output.py); results may be."""
START_S = 60.0
END_S = 10.0
"""How long an interpreter that accepts no cell may take to end."""
INTERRUPT_S = 5.0
"""How long an interrupted cell may take to end."""
ATTEMPTS = 3
"""How often a cell is sent, when the interpreter ends each time before the cell begins."""
SIGINT, SIGKILL = 2, 9
END_LINE = "end_of_execution"
RESTARTED = "ContextRestarting"
"""The name of the error that E2B sends for a cell whose interpreter ended."""


@dataclass(frozen=True)
class CodeCell:
    """Code and the environment it runs in. A `rehearsal` leaves the context as it was."""

    code: str
    environment: Mapping[str, str]
    rehearsal: bool = False


def contexts(envd: Envd) -> list[Context]:
    """The contexts of the processes that the gateway knows (see `Envd.sync`), and those whose
    process has ended."""
    for process in envd.processes.values():
        label, _, rest = process.label.partition(" ")
        if label == LABEL:
            id, _, language = rest.partition(" ")
            known = envd.contexts.get(id)
            if known is None or known.process.ended:
                envd.contexts[id] = Context(id, language, process.cwd, process)
    envd.on_end = lambda process: _start_again_soon(envd, process)
    return list(envd.contexts.values())


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
        async with asyncio.timeout(START_S):
            async for _ in InterpreterLines(listener).until("ready"):
                pass
    except TimeoutError as error:
        with contextlib.suppress(GuestRefused):
            await envd.signal(process.pid, SIGKILL)
        raise GuestTimeout(f"the interpreter was not ready after {START_S:.0f} s") from error
    finally:
        listener.close()
    envd.contexts[id] = Context(id, language, cwd or HOME, process)
    return envd.contexts[id]


async def end_context(envd: Envd, context: Context) -> None:
    """End a context's process, and the cells that run in it; the context is forgotten."""
    if start := envd.starting.get(context.id):
        with contextlib.suppress(Exception):  # logged by `_started`
            context = await asyncio.shield(start)
    envd.contexts.pop(context.id, None)
    envd.unreported.pop(context.id, None)
    process = context.process
    if process.ended is None:
        # Forgotten at once, so its end would not reach its listeners otherwise.
        envd.processes.pop(process.pid, None)
        process.ended = ProcessEvent("exit", signal=SIGKILL)
        process.publish(process.ended)
        with contextlib.suppress(GuestRefused):  # it has ended meanwhile
            await envd.signal(process.pid, SIGKILL)


async def restart_context(envd: Envd, context: Context) -> None:
    """Replace a context's process by a new one, in the directory where it was started."""
    if context.id not in envd.starting:
        await end_context(envd, context)
        envd.contexts[context.id] = context
    await _started_again(envd, context.id)


async def _started_again(envd: Envd, id: str) -> Context:
    """A context with a process that runs: if it has ended, started once for all who wait."""
    try:
        known = context(envd, id)
    except LookupError:
        if id != DEFAULT:
            raise
        known = None  # ended unseen, or removed: every sandbox can have the default context
    if id not in envd.starting and known and known.process.ended is None:
        return known
    language, cwd = (known.language, known.cwd) if known else ("python", HOME)
    return await asyncio.shield(_start(envd, id, language, cwd))


def _start(envd: Envd, id: str, language: str, cwd: str) -> asyncio.Future[Context]:
    """Start an interpreter in the background, once for all who wait for it."""
    if id not in envd.starting:
        start = asyncio.ensure_future(start_context(envd, id, language, cwd))
        envd.starting[id] = start
        start.add_done_callback(lambda done: _started(envd, id, done))
    return envd.starting[id]


def _started(envd: Envd, id: str, done: asyncio.Future[Context]) -> None:
    envd.starting.pop(id, None)
    if not done.cancelled() and (error := done.exception()) and not envd.gone:
        log.warning(
            "an interpreter did not start",
            extra={"fields": {"sandbox": envd.name, "context": id, "why": str(error)}},
        )


def _start_again_soon(envd: Envd, process: RunningProcess) -> None:
    """When a process has ended: if it was a context's, start it without waiting for the next cell,
    so that a pause, a fork or another gateway finds it. One that ends before its first cell waits
    for a cell: it may end each time."""
    for known in envd.contexts.values():
        if known.process is process and known.used:
            if process.ended:
                envd.unreported.setdefault(known.id, str(_ended(process.ended)))
            _start(envd, known.id, known.language, known.cwd)


def _ended(event: ProcessEvent) -> InterpreterEnded:
    how = f"signal {event.signal}" if event.signal else f"exit code {event.code}"
    return InterpreterEnded(f"the interpreter ended with {how}")


def new_id() -> str:
    return secrets.token_hex(8)


async def execute(envd: Envd, id: str, cell: CodeCell) -> AsyncIterator[bytes]:
    """Run a cell; its lines as they arrive. Raises LookupError for an unknown context.

    If the interpreter ends during the cell, the last lines are an error and the end. If it has
    ended since the last cell, the first line on stderr says so. The cell is ended if the caller
    leaves.
    """
    for attempt in range(ATTEMPTS):
        process = (await _started_again(envd, id)).process
        lines = _execute(envd, id, process, cell)
        try:
            first = await anext(lines)
        except InterpreterEnded:
            if attempt + 1 == ATTEMPTS:
                raise
            continue
        known = envd.contexts.get(id)
        if known and known.process is process and not known.used:
            envd.contexts[id] = replace(known, used=True)
        line = first
        try:
            yield first
            if why := envd.unreported.pop(id, None):
                text = f"{_restarted(why)}; its variables are gone\n"
                yield _line("stderr", text=text, timestamp=time.time_ns())
            async for line in lines:
                yield line
        except InterpreterEnded as error:
            envd.unreported.pop(id, None)
            if not line.endswith(b"\n"):
                yield b"\n"  # the line that was cut off
            yield _line("error", name=RESTARTED, value=_restarted(error), traceback="")
            yield _line(END_LINE)
        finally:
            await lines.aclose()
        return


def _restarted(why: object) -> str:
    return f"Context was restarted: {why}"


def _line(kind: str, **fields: object) -> bytes:
    return json.dumps({"type": kind, **fields}).encode() + b"\n"


async def _execute(
    envd: Envd, id: str, process: RunningProcess, cell: CodeCell
) -> AsyncGenerator[bytes, None]:
    """Raises InterpreterEnded before the first line if the cell did not begin."""
    number = secrets.token_hex(8)
    request = {"code": cell.code, "envs": dict(cell.environment), "rehearsal": cell.rehearsal,
               "cell": number}  # fmt: skip
    lines = CellLines(process, number)
    # Sent to its end: half a request would be part of the next one.
    sending = asyncio.ensure_future(_send(envd, process, json.dumps(request).encode()))
    sending.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        try:
            await asyncio.shield(sending)
        except GuestRefused as error:
            await _end_of(envd, process, lines)
            raise InterpreterEnded(f"the interpreter accepts no cell: {error}") from error
        # Earlier lines belong to another caller's cell, or to a cell whose caller left.
        await lines.begin()
        async for line in lines.rest():
            yield line
    finally:
        if lines.ended or envd.gone or process.ended:
            lines.close()
        else:
            ending = asyncio.ensure_future(_end_cell(envd, id, lines, sending))
            envd.ending.add(ending)
            ending.add_done_callback(envd.ending.discard)


async def _send(envd: Envd, process: RunningProcess, request: bytes) -> None:
    """Write a request to an interpreter, after the others'."""
    async with process.writing:
        start = b"\n" if process.cut_off else b""
        process.cut_off = True
        await envd.input(process.pid, start + request + b"\n")
        process.cut_off = False


async def _end_cell(envd: Envd, id: str, lines: CellLines, sending: asyncio.Future[None]) -> None:
    """End a cell whose caller has left, once it runs. An interpreter that does not end it is
    ended itself: all later cells would wait for it."""
    process = lines.process
    try:
        await sending
        await lines.begin()
        await envd.signal(process.pid, SIGINT)
        async with asyncio.timeout(INTERRUPT_S):
            async for _line in lines.rest():
                pass
    except TimeoutError:
        why = f"an interrupted cell had not ended after {INTERRUPT_S:g} s"
        envd.unreported[id] = why
        fields = {"sandbox": envd.name, "context": id, "why": why}
        log.warning("an interpreter was ended", extra={"fields": fields})
        with contextlib.suppress(SandboxError):  # it has ended meanwhile
            await envd.signal(process.pid, SIGKILL)
    except SandboxError:
        pass  # the interpreter or the sandbox has ended, and the cell with it
    finally:
        lines.close()


async def _end_of(envd: Envd, process: RunningProcess, lines: CellLines) -> None:
    """Wait for the end of an interpreter that accepts no more: the news may still be on its way.
    Raises InterpreterEnded."""
    try:
        async with asyncio.timeout(END_S):
            await lines.begin()
    except TimeoutError:
        with contextlib.suppress(GuestRefused):
            await envd.signal(process.pid, SIGKILL)


class CellLines:
    """The lines of a cell. A reader may stop and go on later."""

    def __init__(self, process: RunningProcess, number: str) -> None:
        self.process = process
        self.ended = False
        self._begun = False
        self._begin_line = json.dumps({"type": "begin", "cell": number}).encode()
        self._listener = process.listen()
        self._lines = InterpreterLines(self._listener)

    async def begin(self) -> None:
        """Wait until the cell runs."""
        while not self._begun:
            async for line in self._lines.until("begin"):
                self._begun = line.startswith(self._begin_line)

    async def rest(self) -> AsyncIterator[bytes]:
        """The lines that have not been read yet, to the cell's end."""
        async for line in self._lines.until(END_LINE):
            # Noted first: who reads this line may not ask for another one.
            self.ended = line.startswith(_prefix(END_LINE))
            yield line

    def close(self) -> None:
        self._listener.close()


def _prefix(kind: str) -> bytes:
    """How a line of this type begins."""
    return f'{{"type": "{kind}"'.encode()


class InterpreterLines:
    """What an interpreter writes: whole lines, and long lines in pieces, without being kept."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._pieces: deque[bytes] = deque()
        self._rest = bytearray()
        self._in_line = False
        """Whether the beginning of the present line was passed on already."""

    async def until(self, last: str) -> AsyncIterator[bytes]:
        """The lines up to and including the next of type `last`; each line begins a piece."""
        prefix = _prefix(last)
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
            raise _ended(event)
        if event.kind == "stdout":
            *complete, rest = event.data.split(b"\n")
            for line in complete:
                self._pieces.append(bytes(self._rest + line + b"\n"))
                self._rest.clear()
            self._rest += rest
            goes_on = self._in_line and not complete
            if self._rest and (goes_on or len(self._rest) >= WHOLE_BYTES):
                self._pieces.append(bytes(self._rest))
                self._rest.clear()
