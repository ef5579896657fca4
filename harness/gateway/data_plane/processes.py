"""envd's service `process.Process`: what the SDK's `commands` and `pty` call."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from harness.errors import CoppiceError, GuestDied
from harness.gateway.data_plane import connect_rpc
from harness.gateway.data_plane.connect_rpc import Body
from harness.gateway.envd.client import Envd, Listener, RunningProcess, Said
from harness.gateway.errors import RpcError
from harness.gateway.sandboxes.entries import Entry

KILL, TERM = 9, 15
_SIGNALS = {"SIGNAL_SIGKILL": KILL, "SIGNAL_SIGTERM": TERM, KILL: KILL, TERM: TERM}
_NAMES = {1: "hangup", 2: "interrupt", 6: "aborted", 9: "killed", 11: "segmentation fault",
          13: "broken pipe", 15: "terminated"}  # fmt: skip


class ProcessService:
    """For one sandbox and one request; `user` is who asks."""

    def __init__(self, entry: Entry, envd: Envd, user: str) -> None:
        self._entry = entry
        self._envd = envd
        self._user = user

    async def answer(self, method: str, request: Request) -> Response:
        streams = {"Start": self._start, "Connect": self._connect}
        unary = {
            "List": self._list, "SendInput": self._send_input, "SendSignal": self._send_signal,
            "Update": self._update, "CloseStdin": self._close_stdin,
        }  # fmt: skip
        if method in streams:
            limit = connect_rpc.timeout_of(request)
            handle = streams[method]
            return await connect_rpc.server_stream(request, lambda body: handle(body, limit))
        if method == "StreamInput":
            return await connect_rpc.client_stream(request, self._stream_input)
        if method in unary:
            return await connect_rpc.unary(request, unary[method])
        raise RpcError("unimplemented", f"process.Process has no {method}")

    async def _known(self) -> None:
        if not self._entry.synced:
            await self._envd.sync()
            self._entry.synced = True

    async def _find(self, body: Body) -> RunningProcess:
        await self._known()
        which = body.get("process") or {}
        if not isinstance(which, Mapping):
            raise RpcError("invalid_argument", "process names none")
        which = which.get("selector") or which
        pid, tag = which.get("pid"), which.get("tag")
        if isinstance(pid, int) and pid in self._envd.processes:
            return self._envd.processes[pid]
        for process in self._envd.processes.values():
            if tag and process.label == tag:
                return process
        raise RpcError(
            "not_found", f"process with {'pid' if pid else 'tag'} {pid or tag} not found"
        )

    async def _start(self, body: Body, limit: float | None) -> AsyncIterator[Body]:
        config = body.get("process") or {}
        words = [config.get("cmd") or "", *(config.get("args") or [])]
        given = config.get("envs") or {}
        if not words[0] or not all(isinstance(one, str) for one in words):
            raise RpcError("invalid_argument", "a process needs a command")
        if not isinstance(given, Mapping) or any("\0" in f"{k}{v}" for k, v in given.items()):
            raise RpcError("invalid_argument", "envs are names and texts")
        if any("\0" in one for one in words):
            raise RpcError("invalid_argument", "an argument cannot hold a zero byte")
        size = None
        if "pty" in body:
            shape = (body["pty"] or {}).get("size") or {}
            size = (int(shape.get("cols") or 80), int(shape.get("rows") or 24))
        process, listener = await self._envd.start(
            words,
            environment={**self._entry.record.environment, **given},
            cwd=str(config.get("cwd") or ""),
            user=self._user,
            label=str(body.get("tag") or ""),
            keep_input=body.get("stdin") is not False,
            size=size,
        )
        yield {"event": {"start": {"pid": process.pid}}}
        async for event in self._events(process, listener, limit, kill=True):
            yield event

    async def _connect(self, body: Body, limit: float | None) -> AsyncIterator[Body]:
        process = await self._find(body)
        listener = process.listen()
        yield {"event": {"start": {"pid": process.pid}}}
        async for event in self._events(process, listener, limit, kill=False):
            yield event

    async def _events(
        self, process: RunningProcess, listener: Listener, limit: float | None, kill: bool
    ) -> AsyncIterator[Body]:
        """What it says until it ends. The caller who started it has it killed at his limit, even
        when he has gone away meanwhile; who goes away otherwise leaves it running."""
        loop = asyncio.get_running_loop()
        # He is told a little before he stops listening.
        over = loop.time() + limit - min(limit / 20, 0.1) if limit else None
        if over and kill:
            loop.call_at(over, lambda: _kill(process))
        try:
            while True:
                try:
                    async with asyncio.timeout_at(over):
                        said = await listener.get()
                except TimeoutError:
                    raise RpcError("deadline_exceeded", "the process has had its time") from None
                if said is None:
                    raise GuestDied("the connection to the sandbox ended before the process did")
                if said.what == "exit":
                    yield {"event": {"end": _end(said)}}
                    return
                data = base64.b64encode(said.data).decode()
                yield {"event": {"data": {said.what: data}}}
        finally:
            listener.close()

    async def _list(self, body: Body) -> Body:
        await self._known()
        return {"processes": [_shown(one) for one in self._envd.processes.values()]}

    async def _send_input(self, body: Body) -> Body:
        process = await self._find(body)
        await self._envd.input(process.pid, _input(body.get("input")))
        return {}

    async def _stream_input(self, messages: AsyncIterator[Body]) -> Body:
        process = None
        async for message in messages:
            message = message.get("event") or message
            if "start" in message:
                process = await self._find(message["start"])
            elif "data" in message:
                if process is None:
                    raise RpcError("invalid_argument", "the stream begins with data")
                await self._envd.input(process.pid, _input(message["data"].get("input")))
        return {}

    async def _send_signal(self, body: Body) -> Body:
        number = _SIGNALS.get(body.get("signal", 0))
        if number is None:
            raise RpcError("unimplemented", f"the signal {body.get('signal')!r} cannot be sent")
        process = await self._find(body)
        await self._envd.signal(process.pid, number)
        return {}

    async def _update(self, body: Body) -> Body:
        process = await self._find(body)
        size = (body.get("pty") or {}).get("size") or {}
        await self._envd.resize(process.pid, int(size.get("cols", 80)), int(size.get("rows", 24)))
        return {}

    async def _close_stdin(self, body: Body) -> Body:
        process = await self._find(body)
        await self._envd.close_input(process.pid)
        return {}


def _kill(process: RunningProcess) -> None:
    async def do() -> None:
        with contextlib.suppress(CoppiceError, TimeoutError):
            await process.envd.signal(process.pid, KILL)

    if not process.ended:
        task = asyncio.get_running_loop().create_task(do())
        _KILLING.add(task)
        task.add_done_callback(_KILLING.discard)


_KILLING: set[asyncio.Task[None]] = set()


def _input(found: Any) -> bytes:
    if not isinstance(found, Mapping):
        raise RpcError("invalid_argument", "there is no input")
    found = found.get("input") or found
    text = found.get("stdin") or found.get("pty") or ""
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise RpcError("invalid_argument", "input is in base64") from error


def _end(said: Said) -> Body:
    if said.signal:
        what = f"signal: {_NAMES.get(said.signal, said.signal)}"
        return {"exitCode": -1, "exited": False, "status": what, "error": what}
    end: dict[str, Any] = {"exited": True, "status": f"exit status {said.code}"}
    if said.code:
        end |= {"exitCode": said.code, "error": end["status"]}
    return end


def _shown(process: RunningProcess) -> Body:
    config: dict[str, Any] = {
        "cmd": process.words[0],
        "args": list(process.words[1:]),
        "envs": dict(process.environment),
    }
    if process.cwd:
        config["cwd"] = process.cwd
    shown: dict[str, Any] = {"config": config, "pid": process.pid}
    if process.label:
        shown["tag"] = process.label
    return shown
