"""envd's service `filesystem.Filesystem`, behind the SDK's `files` except for transfers."""

from __future__ import annotations

import asyncio
import secrets
import stat
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from harness.errors import GuestDied
from harness.gateway.data_plane import connect_rpc
from harness.gateway.data_plane.connect_rpc import Body
from harness.gateway.envd.client import Envd
from harness.gateway.envd.wire import EnvdTag, RequestKind, decode_fields
from harness.gateway.errors import RpcError
from harness.gateway.sandboxes.sandbox import Sandbox
from harness.gateway.timestamps import utc_text
from harness.guest.protocol import Frame, Tag

_EVENT_TYPES = {
    1: "EVENT_TYPE_CREATE", 2: "EVENT_TYPE_WRITE", 3: "EVENT_TYPE_REMOVE",
    4: "EVENT_TYPE_RENAME", 5: "EVENT_TYPE_CHMOD",
}  # fmt: skip
EVENTS_MAX = 10000
"""Kept for a watcher; further events are lost until the client fetches them."""


class Watcher:
    """A watch whose events the client polls for."""

    def __init__(self) -> None:
        self.number = 0
        self.events: list[Body] = []

    def on_event(self, frame: Frame | None) -> None:
        if frame and len(self.events) < EVENTS_MAX:
            self.events.append(event_of(frame))


class FileService:
    """For one sandbox and one request; `user` is the requesting user."""

    def __init__(self, sandbox: Sandbox, envd: Envd, user: str) -> None:
        self._sandbox = sandbox
        self._envd = envd
        self._user = user

    async def answer(self, method: str, request: Request) -> Response:
        unary = {
            "Stat": self._stat, "MakeDir": self._make, "Move": self._move, "ListDir": self._list,
            "Remove": self._remove, "CreateWatcher": self._create_watcher,
            "GetWatcherEvents": self._events, "RemoveWatcher": self._remove_watcher,
        }  # fmt: skip
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
        return {"entry": entry_of((await self._request(RequestKind.STAT, body))[-1])}

    async def _make(self, body: Body) -> Body:
        return {"entry": entry_of((await self._request(RequestKind.MAKE, body))[-1])}

    async def _move(self, body: Body) -> Body:
        target = _path(body, "destination")
        answers = await self._request(RequestKind.MOVE, body, "source", target=target)
        return {"entry": entry_of(answers[-1])}

    async def _list(self, body: Body) -> Body:
        depth = body.get("depth") or 1
        if not isinstance(depth, int) or not 0 < depth < 1000:
            raise RpcError("invalid_argument", "depth must be from 1 to 999")
        answers = await self._request(RequestKind.LIST, body, depth=depth)
        return {"entries": [entry_of(payload) for payload in answers[:-1]]}

    async def _remove(self, body: Body) -> Body:
        await self._request(RequestKind.REMOVE, body)
        return {}

    async def _watch(self, body: Body) -> AsyncIterator[Body]:
        events: asyncio.Queue[Frame | None] = asyncio.Queue()
        recursive = body.get("recursive") is True
        number = await self._envd.watch(_path(body), self._user, recursive, events.put_nowait)
        try:
            yield {"start": {}}
            while True:
                frame = await events.get()
                if frame is None:
                    raise GuestDied("the connection to the sandbox ended")
                yield {"filesystem": event_of(frame)}
        finally:
            self._envd.unwatch(number)

    async def _create_watcher(self, body: Body) -> Body:
        watcher = Watcher()
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
        events, watcher.events = watcher.events, []
        return {"events": events}

    async def _remove_watcher(self, body: Body) -> Body:
        self._envd.unwatch(self._watcher(body).number)
        del self._sandbox.watchers[str(body["watcherId"])]
        return {}


def _path(body: Body, name: str = "path") -> str:
    path = body.get(name, "")
    if not isinstance(path, str):
        raise RpcError("invalid_argument", f"{name} must be a path")
    return path


def event_of(frame: Frame) -> Body:
    fields = dict(decode_fields(frame.payload))
    event = int.from_bytes(fields[EnvdTag.EVENT], "little")
    name = fields[EnvdTag.NAME].decode("utf-8", "replace")
    return {"name": name, "type": _EVENT_TYPES.get(event, "EVENT_TYPE_UNSPECIFIED")}


def entry_of(payload: bytes) -> Mapping[str, Any]:
    """A directory entry as E2B's JSON, in which int64 are strings."""
    fields = dict(decode_fields(payload))

    def text(tag: int) -> str:
        return fields.get(tag, b"").decode("utf-8", "replace")

    (mode,) = struct.unpack("<Q", fields[Tag.MODE])
    (size,) = struct.unpack("<Q", fields[EnvdTag.SIZE])
    (mtime_ns,) = struct.unpack("<Q", fields[EnvdTag.MTIME_NS])
    entry: dict[str, Any] = {
        "name": text(EnvdTag.NAME),
        "path": text(Tag.PATH),
        "type": _type(mode),
        "size": str(size),
        "mode": stat.S_IMODE(mode),
        "permissions": stat.filemode(mode),
        "owner": text(EnvdTag.OWNER),
        "group": text(EnvdTag.GROUP),
        "modifiedTime": utc_text(mtime_ns / 1e9),
    }
    if EnvdTag.TARGET in fields:
        entry["symlinkTarget"] = text(EnvdTag.TARGET)
    return entry


def _type(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "FILE_TYPE_DIRECTORY"
    if stat.S_ISREG(mode):
        return "FILE_TYPE_FILE"
    return "FILE_TYPE_SYMLINK" if stat.S_ISLNK(mode) else "FILE_TYPE_UNSPECIFIED"
