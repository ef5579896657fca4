"""envd's service `process.Process`, behind the SDK's `commands` and `pty`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from harness.errors import CoppiceError
from harness.gateway.data_plane import connect_rpc
from harness.gateway.data_plane.connect_rpc import Body, Message, encoded
from harness.gateway.envd.client import Envd
from harness.gateway.envd.process import Listener, ProcessEvent, RunningProcess
from harness.gateway.errors import RpcError
from harness.gateway.sandboxes.sandbox import Sandbox

KILL, TERM = 9, 15
TAG_MAX = 4096
_SIGNALS = {"SIGNAL_SIGKILL": KILL, "SIGNAL_SIGTERM": TERM, KILL: KILL, TERM: TERM}
_NAMES = {1: "hangup", 2: "interrupt", 6: "aborted", 9: "killed", 11: "segmentation fault",
          13: "broken pipe", 15: "terminated"}  # fmt: skip


class ProcessService:
    """For one sandbox and one request; `user` is the requesting user."""

    def __init__(self, sandbox: Sandbox, envd: Envd, user: str) -> None:
        self._sandbox = sandbox
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
        raise RpcError("unimplemented", f"process.Process has no method {method}")

    async def _find(self, body: Body) -> RunningProcess:
        await self._sandbox.learn_processes()
        selector = body.get("process") or {}
        if not isinstance(selector, Mapping):
            raise RpcError("invalid_argument", "process must be an object with a pid or a tag")
        selector = selector.get("selector") or selector
        pid, tag = selector.get("pid"), selector.get("tag")
        if isinstance(pid, int) and pid in self._envd.processes:
            return self._envd.processes[pid]
        for process in self._envd.processes.values():
            if tag and process.label == tag:
                return process
        raise RpcError(
            "not_found", f"process with {'pid' if pid else 'tag'} {pid or tag} not found"
        )

    async def _start(self, body: Body, limit: float | None) -> AsyncGenerator[Message]:
        config = body.get("process") or {}
        argv = [config.get("cmd") or "", *(config.get("args") or [])]
        variables = config.get("envs") or {}
        if not argv[0] or not all(isinstance(argument, str) for argument in argv):
            raise RpcError("invalid_argument", "cmd and args must be strings, and cmd not empty")
        if not isinstance(variables, Mapping):
            raise RpcError("invalid_argument", "envs must be an object of strings")
        tag = str(body.get("tag") or "")
        if len(tag.encode(errors="replace")) > TAG_MAX:
            raise RpcError("invalid_argument", f"a tag may have at most {TAG_MAX} bytes")
        size = _size(body["pty"] or {}) if "pty" in body else None
        process, listener = await self._envd.start(
            argv,
            environment={**self._sandbox.stored.environment, **variables},
            cwd=str(config.get("cwd") or ""),
            user=self._user,
            label=tag,
            keep_input=body.get("stdin") is not False,
            size=size,
        )
        async with contextlib.aclosing(self._events(process, listener, limit, kill=True)) as events:
            async for message in events:
                yield message

    async def _connect(self, body: Body, limit: float | None) -> AsyncGenerator[Message]:
        process = await self._find(body)
        events = self._events(process, process.listen(), limit, kill=False)
        async with contextlib.aclosing(events):
            async for message in events:
                yield message

    async def _events(
        self, process: RunningProcess, listener: Listener, limit: float | None, kill: bool
    ) -> AsyncGenerator[Message]:
        """Its output until it ends. With `kill` it is killed at the time limit, even if the caller
        has disconnected meanwhile; a disconnect alone leaves it running."""
        timer = None
        if limit:
            loop = asyncio.get_running_loop()
            # A little early, so that the caller still receives the error.
            end_time = loop.time() + limit - min(limit / 20, 0.1)
            timer = loop.call_at(end_time, self._time_is_up, process, listener, kill)
        try:
            yield b'{"event":{"start":{"pid":%d}}}' % process.pid
            while True:
                try:
                    event = await listener.get()
                except TimeoutError:
                    raise RpcError(
                        "deadline_exceeded", "the process reached its time limit"
                    ) from None
                if event.kind == "exit":
                    failed = event.signal or event.code
                    yield encoded({"event": {"end": _end(event)}}) if failed else _SUCCESS
                    return
                data = base64.b64encode(event.data)
                yield b'{"event":{"data":{"%b":"%b"}}}' % (event.kind.encode(), data)
        finally:
            listener.close()
            if timer and (process.ended or not kill):
                timer.cancel()

    def _time_is_up(self, process: RunningProcess, listener: Listener, kill: bool) -> None:
        if kill:
            _kill(self._envd, process)
        listener.expire()

    async def _list(self, body: Body) -> Body:
        await self._sandbox.learn_processes()
        return {"processes": [process_json(process) for process in self._envd.processes.values()]}

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
                    raise RpcError("invalid_argument", "the stream must begin with start")
                await self._envd.input(process.pid, _input(message["data"].get("input")))
        return {}

    async def _send_signal(self, body: Body) -> Body:
        number = _SIGNALS.get(body.get("signal", 0))
        if number is None:
            raise RpcError("unimplemented", f"the signal {body.get('signal')!r} is not supported")
        process = await self._find(body)
        await self._envd.signal(process.pid, number)
        return {}

    async def _update(self, body: Body) -> Body:
        process = await self._find(body)
        await self._envd.resize(process.pid, *_size(body.get("pty") or {}))
        return {}

    async def _close_stdin(self, body: Body) -> Body:
        process = await self._find(body)
        await self._envd.close_input(process.pid)
        return {}


def _size(pty: Any) -> tuple[int, int]:
    """Columns and rows of a terminal, which Linux keeps in 16 bits."""
    size = (pty.get("size") if isinstance(pty, Mapping) else None) or {}
    if not isinstance(size, Mapping):
        raise RpcError("invalid_argument", "size must be an object with cols and rows")
    given = size.get("cols") or 80, size.get("rows") or 24
    if not all(isinstance(number, int) and 0 < number < 1 << 16 for number in given):
        raise RpcError("invalid_argument", "cols and rows must be numbers from 1 to 65535")
    return given


def _kill(envd: Envd, process: RunningProcess) -> None:
    async def kill() -> None:
        with contextlib.suppress(CoppiceError, TimeoutError):
            await envd.signal(process.pid, KILL)

    if not process.ended:
        task = asyncio.get_running_loop().create_task(kill())
        _kill_tasks.add(task)
        task.add_done_callback(_kill_tasks.discard)


_kill_tasks: set[asyncio.Task[None]] = set()


def _input(message: Any) -> bytes:
    if not isinstance(message, Mapping):
        raise RpcError("invalid_argument", "the input is missing")
    message = message.get("input") or message
    text = message.get("stdin") or message.get("pty") or ""
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise RpcError("invalid_argument", "the input must be base64") from error


def _end(event: ProcessEvent) -> Body:
    if event.signal:
        status = f"signal: {_NAMES.get(event.signal, event.signal)}"
        return {"exitCode": -1, "exited": False, "status": status, "error": status}
    end: dict[str, Any] = {"exited": True, "status": f"exit status {event.code}"}
    if event.code:
        end |= {"exitCode": event.code, "error": end["status"]}
    return end


_SUCCESS = encoded({"event": {"end": _end(ProcessEvent("exit"))}})


def process_json(process: RunningProcess) -> Body:
    config: dict[str, Any] = {
        "cmd": process.argv[0],
        "args": list(process.argv[1:]),
        "envs": dict(process.environment),
    }
    if process.cwd:
        config["cwd"] = process.cwd
    description: dict[str, Any] = {"config": config, "pid": process.pid}
    if process.label:
        description["tag"] = process.label
    return description
