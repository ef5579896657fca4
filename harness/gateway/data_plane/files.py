"""envd's service `filesystem.Filesystem`, behind the SDK's `files` except for transfers."""

from __future__ import annotations

import asyncio
import json
import secrets
import stat
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from harness.errors import AnswerTooLong, SandboxError
from harness.gateway.data_plane import connect_rpc
from harness.gateway.data_plane.connect_rpc import Body
from harness.gateway.envd.budget import ANSWER_MAX, ITEM_BYTES, QUEUE_HIGH
from harness.gateway.envd.client import Envd
from harness.gateway.envd.wire import EnvdTag, RequestKind
from harness.gateway.errors import RpcError
from harness.gateway.sandboxes.sandbox import Sandbox
from harness.gateway.timestamps import utc_text
from harness.guest.answers import Fields
from harness.guest.protocol import Frame, Tag

_EVENT_TYPES = {
    1: "EVENT_TYPE_CREATE", 2: "EVENT_TYPE_WRITE", 3: "EVENT_TYPE_REMOVE",
    4: "EVENT_TYPE_RENAME", 5: "EVENT_TYPE_CHMOD",
}  # fmt: skip
WATCHERS_MAX = 128
"""Of a sandbox, for clients that poll."""
EVENT_BYTES_MAX = 1 << 20
"""Kept for a watcher. Further events are lost until the client fetches them, and end a stream."""


class Watcher:
    """A watch whose events the client polls for."""

    def __init__(self, envd: Envd) -> None:
        self.number = 0
        self._envd = envd
        self._queue: list[tuple[int, Body]] = []
        self._queued = 0

    def on_event(self, frame: Frame | SandboxError) -> None:
        if isinstance(frame, SandboxError):
            return
        weight = len(frame.payload) + 2 * ITEM_BYTES
        crowded = self._envd.queued.used > QUEUE_HIGH
        if self._queued + weight <= EVENT_BYTES_MAX and not crowded:
            self._queue.append((weight, event_of(frame, self._envd.name)))
            self._queued += weight
            self._envd.queued.take(weight)

    def fetch(self) -> list[Body]:
        """The events since the last call."""
        self._envd.queued.give(self._queued)
        queue, self._queue, self._queued = self._queue, [], 0
        return [event for _, event in queue]


class EventStream:
    """A watch whose events are sent as they arrive."""

    def __init__(self, envd: Envd) -> None:
        self._envd = envd
        self._queue: asyncio.Queue[tuple[int, Body] | SandboxError] = asyncio.Queue()
        self._queued = 0

    def on_event(self, frame: Frame | SandboxError) -> None:
        if isinstance(frame, SandboxError):
            self._queue.put_nowait(frame)
            return
        weight = len(frame.payload) + 2 * ITEM_BYTES
        if self._queued > EVENT_BYTES_MAX:
            return
        self._queue.put_nowait((weight, event_of(frame, self._envd.name)))
        self._queued += weight
        self._envd.queued.take(weight)
        if self._queued > EVENT_BYTES_MAX:
            self._queue.put_nowait(AnswerTooLong("the events came faster than they were read"))

    async def get(self) -> Body:
        item = await self._queue.get()
        if isinstance(item, SandboxError):
            raise item
        weight, event = item
        self._queued -= weight
        self._envd.queued.give(weight)
        return event

    def close(self) -> None:
        self._envd.queued.give(self._queued)
        self._queued = EVENT_BYTES_MAX + 1  # takes no more


class FileService:
    """For one sandbox and one request; `user` is the requesting user."""

    def __init__(self, sandbox: Sandbox, envd: Envd, user: str) -> None:
        self._sandbox = sandbox
        self._envd = envd
        self._user = user

    async def answer(self, method: str, request: Request) -> Response:
        unary = {
            "Stat": self._stat, "MakeDir": self._make, "Move": self._move, "Remove": self._remove,
            "CreateWatcher": self._create_watcher, "GetWatcherEvents": self._events,
            "RemoveWatcher": self._remove_watcher,
        }  # fmt: skip
        if method == "ListDir":
            return await connect_rpc.unary_raw(request, self._list)
        if method == "WatchDir":
            return await connect_rpc.server_stream(request, self._watch)
        if method in unary:
            return await connect_rpc.unary(request, unary[method])
        raise RpcError("unimplemented", f"filesystem.Filesystem has no method {method}")

    async def _request(
        self, kind: RequestKind, body: Body, name: str = "path", **more: Any
    ) -> list[bytes]:
        path = _path(body, name)
        return await self._envd.path_request(kind, path, self._user, **more)

    async def _stat(self, body: Body) -> Body:
        return self._entry(await self._request(RequestKind.STAT, body))

    async def _make(self, body: Body) -> Body:
        return self._entry(await self._request(RequestKind.MAKE, body))

    async def _move(self, body: Body) -> Body:
        target = _path(body, "destination")
        answers = await self._request(RequestKind.MOVE, body, "source", target=target)
        return self._entry(answers)

    def _entry(self, answers: list[bytes]) -> Body:
        return {"entry": entry_of(answers[-1], self._envd.name)}

    async def _list(self, body: Body) -> bytes:
        """The JSON of the entries, of which there may be many: each is encoded as it arrives."""
        depth = body.get("depth") or 1
        if not isinstance(depth, int) or not 0 < depth < 1000:
            raise RpcError("invalid_argument", "depth must be from 1 to 999")
        found = bytearray(b'{"entries":[')

        def add(payload: bytes) -> None:
            entry = json.dumps(entry_of(payload, self._envd.name), separators=(",", ":"))
            found.extend(entry.encode() + b",")
            if len(found) > ANSWER_MAX:
                raise AnswerTooLong(
                    f"the listing is longer than {ANSWER_MAX >> 20} MiB: list fewer levels at once"
                )

        async with self._envd.listings:
            await self._request(RequestKind.LIST, body, depth=depth, on_entry=add)
        if found.endswith(b","):
            del found[-1:]
        return bytes(found + b"]}")

    async def _remove(self, body: Body) -> Body:
        await self._request(RequestKind.REMOVE, body)
        return {}

    async def _watch(self, body: Body) -> AsyncGenerator[Body]:
        events = EventStream(self._envd)
        recursive = body.get("recursive") is True
        number = await self._envd.watch(_path(body), self._user, recursive, events.on_event)
        try:
            yield {"start": {}}
            while True:
                yield {"filesystem": await events.get()}
        finally:
            events.close()
            self._envd.unwatch(number)

    async def _create_watcher(self, body: Body) -> Body:
        watcher = Watcher(self._envd)
        recursive = body.get("recursive") is True
        path = _path(body)
        watcher.number = await self._envd.watch(path, self._user, recursive, watcher.on_event)
        id = secrets.token_hex(8)
        self._sandbox.watchers[id] = watcher
        return {"watcherId": id}

    def _watcher(self, body: Body) -> Watcher:
        watcher = self._sandbox.watchers.get(str(body.get("watcherId")))
        if not isinstance(watcher, Watcher):
            raise RpcError("not_found", f"watcher with id {body.get('watcherId')} not found")
        return watcher

    async def _events(self, body: Body) -> Body:
        watcher = self._watcher(body)
        await self._envd.fetch_events()
        return {"events": watcher.fetch()}

    async def _remove_watcher(self, body: Body) -> Body:
        watcher = self._watcher(body)
        self._envd.unwatch(watcher.number)
        watcher.fetch()
        del self._sandbox.watchers[str(body["watcherId"])]
        return {}


def _path(body: Body, name: str = "path") -> str:
    path = body.get(name, "")
    if not isinstance(path, str):
        raise RpcError("invalid_argument", f"{name} must be a path")
    return path


def event_of(frame: Frame, sandbox: str) -> Body:
    fields = Fields(frame.payload, sandbox)
    event = _EVENT_TYPES.get(fields.number(EnvdTag.EVENT), "EVENT_TYPE_UNSPECIFIED")
    return {"name": fields.text(EnvdTag.NAME), "type": event}


def entry_of(payload: bytes, sandbox: str) -> Mapping[str, Any]:
    """A directory entry as E2B's JSON, in which int64 are strings."""
    fields = Fields(payload, sandbox)
    mode = fields.number(Tag.MODE, 32)
    entry: dict[str, Any] = {
        "name": fields.text(EnvdTag.NAME),
        "path": fields.text(Tag.PATH),
        "type": _type(mode),
        "size": str(fields.number(EnvdTag.SIZE)),
        "mode": stat.S_IMODE(mode),
        "permissions": stat.filemode(mode),
        "owner": fields.text(EnvdTag.OWNER),
        "group": fields.text(EnvdTag.GROUP),
        "modifiedTime": utc_text(fields.number(EnvdTag.MTIME_NS) / 1e9),
    }
    if EnvdTag.TARGET in fields:
        entry["symlinkTarget"] = fields.text(EnvdTag.TARGET)
    return entry


def _type(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "FILE_TYPE_DIRECTORY"
    if stat.S_ISREG(mode):
        return "FILE_TYPE_FILE"
    return "FILE_TYPE_SYMLINK" if stat.S_ISLNK(mode) else "FILE_TYPE_UNSPECIFIED"
