"""Malformed frames for every call of the agent's client and of envd's.

A call may return, or raise an error that the harness defines for it. Anything else is a defect.

    python -m harness.gateway.hostile.fuzz SEED FRAMES

prints the report as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import CoppiceError, SandboxError
from harness.gateway.data_plane.files import EventStream, Watcher, entry_of
from harness.gateway.data_plane.port_proxy import STATUSES, ServerResponse
from harness.gateway.data_plane.processes import process_json
from harness.gateway.envd import interpreter
from harness.gateway.envd.client import Envd
from harness.gateway.envd.connections import dial
from harness.gateway.envd.interpreter import DEFAULT, LABEL, CodeCell
from harness.gateway.envd.wire import ENTRY, EVENT, EnvdTag, RequestKind, encode_field
from harness.gateway.hostile import peer
from harness.gateway.hostile.mutation import Answer, Mutation
from harness.gateway.sandboxes.sandbox import Sandbox
from harness.gateway.sandboxes.store import StoredSandbox
from harness.gateway.sandboxes.usage import sample
from harness.guest.agent_client import HELLO_KEYS, Agent
from harness.guest.protocol import FrameKind

CALL_LIMIT_S = 20.0
"""A call that has not ended by then, with its channel closed, hangs."""
DEFECTS_MAX = 20
ANSWER = FrameKind.ANSWER
PID, NUMBER = 7, 1 << 30


@dataclass
class Report:
    """`ends` counts the ways in which calls ended, by call and class of error; "" is a return."""

    frames: int = 0
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)

    def note(self, call: str, error: BaseException | None, allowed: type[Exception]) -> None:
        self.ends[call, type(error).__name__ if error else ""] += 1
        if error is not None and not isinstance(error, allowed | SandboxError):
            self.defect(f"{call}: {type(error).__name__}: {error}")

    def defect(self, text: str) -> None:
        if len(self.defects) < DEFECTS_MAX:
            self.defects.append(text)


# The agent's client.


def _hello() -> bytes:
    return "".join(f"{key}=1\n" for key in HELLO_KEYS).encode()


AGENT_CALLS: Mapping[str, tuple[Callable[[Agent], object], Sequence[Answer]]] = {
    "agent.wait_for_start": (lambda agent: agent.wait_for_start(5), [(FrameKind.HELLO, b"")]),
    "agent.ping": (lambda agent: agent.ping(5), [(ANSWER, bytes(24))]),
    "agent.hello": (lambda agent: agent.hello(), [(ANSWER, _hello())]),
    "agent.set_wall_clock": (lambda agent: agent.set_wall_clock(), [(ANSWER, b"")]),
    "agent.run": (
        lambda agent: agent.run(("x",), timeout_s=5),
        [(FrameKind.STDOUT, b"out"), (FrameKind.STDERR, b"err"), (FrameKind.EXIT, bytes(8))],
    ),
    "agent.identify_and_run": (
        lambda agent: agent.identify_and_run(b"", ("x",)),
        [(ANSWER, b""), (FrameKind.STDOUT, b"out"), (FrameKind.EXIT, bytes(8))],
    ),
    "agent.read_file": (lambda agent: agent.read_file("/x"), [(ANSWER, b"content")]),
    "agent.write_file": (lambda agent: agent.write_file("/x", b"content"), [(ANSWER, b"")]),
    "agent.touch": (lambda agent: agent.touch(1), [(ANSWER, bytes(8))]),
    "agent.memory": (
        lambda agent: agent.memory(),
        [(ANSWER, b"MemTotal: 1 kB\nHugePages_Total: 0\n1 2 3 4 5 6 7\n")],
    ),
    "agent.arm": (lambda agent: agent.arm(), [(ANSWER, b"")]),
    "agent.shutdown": (lambda agent: agent.shutdown(), [(ANSWER, b"")]),
}
FIRST_ID = {"agent.wait_for_start": 0}
LATER_IDS = {"agent.identify_and_run": (1, 2, 2)}


def fuzz_agent(call: str, mutation: Mutation, report: Report) -> None:
    """One call of the agent's client, to a guest that answers wrongly and then dies."""
    make, answers = AGENT_CALLS[call]
    ids = LATER_IDS.get(call, (FIRST_ID.get(call, 1),) * len(answers))
    ours, theirs = socket.socketpair()
    agent = Agent(ours, "fuzzed")
    with contextlib.closing(agent), theirs:
        theirs.setblocking(False)
        data = mutation.stream(list(zip(ids, answers, strict=True)))
        with contextlib.suppress(BlockingIOError):
            theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        error: BaseException | None = None
        try:
            make(agent)
        except Exception as raised:
            error = raised
        report.note(call, error, SandboxError)


# envd's client.


async def _start(envd: Envd) -> None:
    process, listener = await envd.start(("x",))
    process_json(process)
    while (await listener.get()).kind != "exit":
        pass


async def _sync(envd: Envd) -> None:
    await envd.sync()
    for process in envd.processes.values():
        json.dumps(process_json(process))
    json.dumps([context.as_json() for context in interpreter.contexts(envd)])


async def _list(envd: Envd) -> None:
    def add(payload: bytes) -> None:
        json.dumps(entry_of(payload, envd.name))

    await envd.path_request(RequestKind.LIST, "/", on_entry=add)


async def _stat(envd: Envd) -> None:
    entry_of((await envd.path_request(RequestKind.STAT, "/"))[-1], envd.name)


async def _watch(envd: Envd) -> None:
    events = EventStream(envd)
    await envd.watch("/", "", False, events.on_event)
    while True:
        json.dumps(await events.get())


async def _poll(envd: Envd) -> None:
    watcher = Watcher(envd)
    await envd.watch("/", "", False, watcher.on_event)
    await _until_gone(envd)
    json.dumps(watcher.fetch())


async def _until_gone(envd: Envd) -> None:
    while not envd.gone:
        await asyncio.sleep(0)


async def _usage(envd: Envd) -> None:
    sandbox = Sandbox(StoredSandbox("i", "k", "base", "running", 0, 0), envd=envd)
    await sample(sandbox, 1)
    json.dumps(list(sandbox.usage), allow_nan=False)


async def _cell(envd: Envd) -> None:
    await envd.sync()
    async for _ in interpreter.execute(envd, DEFAULT, CodeCell("1", {})):
        pass


async def _context(envd: Envd) -> None:
    await interpreter.start_context(envd, "id", "python", "")


async def _http(envd: Envd) -> None:
    envd.stale_connections = False
    _, listener = await dial(envd, 80)
    response = ServerResponse("GET")
    while not response.complete:
        event = await listener.get()
        if event.kind == "exit":
            response.end()
            return
        response.feed(event.data)
        check_response(response)


def check_response(response: ServerResponse) -> None:
    """What the gateway sends on must be valid HTTP."""
    assert response.status in (0, *STATUSES), response.status
    for header in response.headers:
        assert not any(set(part) & set(b"\r\n\0") for part in header), header


HTTP = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Y: z\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 103 Early\r\nX: y\r\n\r\nHTTP/1.1 404 No\r\n\r\nbody",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nbytes",
)
_PROCESS = peer.process(PID, f"{LABEL} {DEFAULT} python")
_EVENT = encode_field(EnvdTag.NAME, "x") + encode_field(EnvdTag.EVENT, 1)
_PID = struct.pack("<I", PID)
Call = Callable[[Envd], Awaitable[Any]]
ENVD_CALLS: Mapping[str, tuple[Call, Sequence[tuple[int, Answer]]]] = {
    "envd.sync": (_sync, [(1, (ENTRY, _PROCESS)), (1, (ENTRY, peer.process(8, ""))),
                          (1, (ANSWER, b""))]),
    "envd.start": (_start, [(1, (ANSWER, _PID)), (PID, (FrameKind.STDOUT, b"out")),
                            (PID, (FrameKind.EXIT, bytes(8)))]),
    "envd.input": (lambda envd: envd.input(PID, b"x"), [(1, (ANSWER, b""))]),
    "envd.close_input": (lambda envd: envd.close_input(PID), [(1, (ANSWER, b""))]),
    "envd.signal": (lambda envd: envd.signal(PID, 9), [(1, (ANSWER, b""))]),
    "envd.resize": (lambda envd: envd.resize(PID, 80, 24), [(1, (ANSWER, b""))]),
    "envd.list": (_list, [(1, (ENTRY, peer.entry("a"))), (1, (ENTRY, peer.entry("b"))),
                          (1, (ANSWER, b""))]),
    "envd.stat": (_stat, [(1, (ANSWER, peer.entry("a")))]),
    "envd.open": (lambda envd: envd.open("/x", ""), [(1, (ANSWER, bytes(12)))]),
    "envd.read": (lambda envd: envd.read(1, 0), [(1, (ANSWER, b"content"))]),
    "envd.write": (lambda envd: envd.write(1, b"content"), [(1, (ANSWER, b""))]),
    "envd.close_handle": (lambda envd: envd.close_handle(1), [(1, (ANSWER, b""))]),
    "envd.watch": (_watch, [(1, (ANSWER, b"")), (1, (EVENT, _EVENT)), (1, (EVENT, _EVENT))]),
    "envd.watch, polled": (_poll, [(1, (ANSWER, b"")), (1, (EVENT, _EVENT))]),
    "envd.stats": (
        lambda envd: envd.stats(), [(1, (ANSWER, b"cpu 1 0 0 1\n"))],
    ),
    "usage": (_usage, [(1, (ANSWER, b"cpu 1 0 0 1\nMemTotal: 1 kB\ndisk 2 1\n"))]),
    "interpreter.execute": (_cell, [
        (1, (ENTRY, _PROCESS)), (1, (ANSWER, b"")), (2, (ANSWER, b"")),
        (PID, (FrameKind.STDOUT, b'{"type": "begin", "cell": "x"}\n')),
        (PID, (FrameKind.STDOUT, b'{"type": "end_of_execution"}\n')),
        (PID, (FrameKind.EXIT, bytes(8))),
    ]),
    "interpreter.start_context": (_context, [(1, (ANSWER, _PID)),
                                             (PID, (FrameKind.STDOUT, b'{"type": "ready"}\n'))]),
    **{
        f"http {number}": (_http, [(1, (ANSWER, struct.pack("<I", NUMBER))),
                                   (NUMBER, (FrameKind.STDOUT, text)),
                                   (NUMBER, (FrameKind.EXIT, bytes(8)))])
        for number, text in enumerate(HTTP)
    },
}  # fmt: skip
ALLOWED: Mapping[str, type[Exception]] = {"interpreter.execute": LookupError}
"""An unknown context is an error of the caller's."""


async def fuzz_envd(call: str, mutation: Mutation, report: Report) -> None:
    """One call of envd's client, to a guest that answers wrongly and then dies."""
    make, answers = ENVD_CALLS[call]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        envd = await Envd.connect(ours, "fuzzed")
        task = asyncio.ensure_future(make(envd))
        await asyncio.sleep(0)
        theirs.setblocking(False)
        with contextlib.suppress(OSError):
            theirs.sendall(mutation.stream(answers))
            theirs.shutdown(socket.SHUT_WR)
        done, _ = await asyncio.wait({task}, timeout=CALL_LIMIT_S)
        if not done:
            task.cancel()
            report.defect(f"{call}: it hangs")
        else:
            report.note(call, task.exception(), ALLOWED.get(call, CoppiceError))
        envd.close()


def fuzz(seed: int, frames: int) -> Report:
    """Make calls of both clients until this many wrong frames have been sent."""
    mutation, report = Mutation(seed), Report()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(
            lambda _, context: report.defect(
                f"the event loop: {context['message']}: {context.get('exception')!r}"
            )
        )
        while mutation.frames < frames:
            for call in AGENT_CALLS:
                fuzz_agent(call, mutation, report)
            for call in ENVD_CALLS:
                await fuzz_envd(call, mutation, report)

    asyncio.run(run())
    report.frames = mutation.frames
    return report


if __name__ == "__main__":
    logging.disable()  # a line for each channel that is ended
    made = fuzz(int(sys.argv[1]), int(sys.argv[2]))
    ends = [[call, error, count] for (call, error), count in sorted(made.ends.items())]
    print(json.dumps({"frames": made.frames, "ends": ends, "defects": made.defects}))
