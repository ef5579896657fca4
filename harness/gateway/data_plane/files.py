"""envd's service `filesystem.Filesystem`: what the SDK's `files` calls beside transfers."""

from __future__ import annotations

import asyncio
import secrets
import stat
import struct
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from harness.errors import GuestDied
from harness.gateway.data_plane import connect_rpc
from harness.gateway.data_plane.connect_rpc import Body
from harness.gateway.envd.client import Envd
from harness.gateway.envd.wire import Do, Name, fields_of
from harness.gateway.errors import RpcError
from harness.gateway.sandboxes.entries import Entry
from harness.guest.protocol import Frame, Tag

_TYPES = {
    1: "EVENT_TYPE_CREATE", 2: "EVENT_TYPE_WRITE", 3: "EVENT_TYPE_REMOVE",
    4: "EVENT_TYPE_RENAME", 5: "EVENT_TYPE_CHMOD",
}  # fmt: skip
MOST_EVENTS = 10000
"""Kept for a watcher that is asked seldom; what comes then is lost."""


class Watcher:
    """A watch that is asked for its events rather than listened to."""

    def __init__(self) -> None:
        self.number = 0
        self.events: list[Body] = []

    def hear(self, frame: Frame | None) -> None:
        if frame and len(self.events) < MOST_EVENTS:
            self.events.append(event_of(frame))


class FileService:
    """For one sandbox and one request; `user` is who asks."""

    def __init__(self, entry: Entry, envd: Envd, user: str) -> None:
        self._entry = entry
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
        raise RpcError("unimplemented", f"filesystem.Filesystem has no {method}")

    async def _tree(self, kind: Do, body: Body, name: str = "path", **more: Any) -> list[bytes]:
        path = _path(body, name)
        return await self._envd.tree(kind, path, self._user, **more)

    async def _stat(self, body: Body) -> Body:
        return {"entry": entry_of((await self._tree(Do.STAT, body))[-1])}

    async def _make(self, body: Body) -> Body:
        return {"entry": entry_of((await self._tree(Do.MAKE, body))[-1])}

    async def _move(self, body: Body) -> Body:
        target = _path(body, "destination")
        answers = await self._tree(Do.MOVE, body, "source", target=target)
        return {"entry": entry_of(answers[-1])}

    async def _list(self, body: Body) -> Body:
        depth = body.get("depth") or 1
        if not isinstance(depth, int) or not 0 < depth < 1000:
            raise RpcError("invalid_argument", "depth is a number from 1 on")
        answers = await self._tree(Do.LIST, body, depth=depth)
        return {"entries": [entry_of(one) for one in answers[:-1]]}

    async def _remove(self, body: Body) -> Body:
        await self._tree(Do.REMOVE, body)
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
        watcher.number = await self._envd.watch(path, self._user, recursive, watcher.hear)
        id = secrets.token_hex(8)
        self._entry.watchers[id] = watcher
        return {"watcherId": id}

    def _watcher(self, body: Body) -> Watcher:
        watcher = self._entry.watchers.get(str(body.get("watcherId")))
        if not isinstance(watcher, Watcher):
            raise RpcError("not_found", f"watcher with id {body.get('watcherId')} not found")
        return watcher

    async def _events(self, body: Body) -> Body:
        watcher = self._watcher(body)
        events, watcher.events = watcher.events, []
        return {"events": events}

    async def _remove_watcher(self, body: Body) -> Body:
        self._envd.unwatch(self._watcher(body).number)
        del self._entry.watchers[str(body["watcherId"])]
        return {}


def _path(body: Body, name: str = "path") -> str:
    path = body.get(name, "")
    if not isinstance(path, str) or "\0" in path or len(path) > 4000:
        raise RpcError("invalid_argument", f"{name} is no path")
    return path


def event_of(frame: Frame) -> Body:
    by = dict(fields_of(frame.payload))
    what = int.from_bytes(by[Name.EVENT], "little")
    name = by[Name.NAME].decode("utf-8", "replace")
    return {"name": name, "type": _TYPES.get(what, "EVENT_TYPE_UNSPECIFIED")}


def entry_of(payload: bytes) -> Mapping[str, Any]:
    """An entry as E2B's JSON has it; int64 are texts there."""
    by = dict(fields_of(payload))

    def text(tag: int) -> str:
        return by.get(tag, b"").decode("utf-8", "replace")

    (mode,) = struct.unpack("<Q", by[Tag.MODE])
    (size,) = struct.unpack("<Q", by[Name.SIZE])
    (mtime_ns,) = struct.unpack("<Q", by[Name.MTIME_NS])
    entry: dict[str, Any] = {
        "name": text(Name.NAME),
        "path": text(Tag.PATH),
        "type": _type(mode),
        "size": str(size),
        "mode": stat.S_IMODE(mode),
        "permissions": stat.filemode(mode),
        "owner": text(Name.OWNER),
        "group": text(Name.GROUP),
        "modifiedTime": datetime.fromtimestamp(mtime_ns / 1e9, UTC)
        .isoformat()
        .replace("+00:00", "Z"),
    }
    if Name.TARGET in by:
        entry["symlinkTarget"] = text(Name.TARGET)
    return entry


def _type(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "FILE_TYPE_DIRECTORY"
    if stat.S_ISREG(mode):
        return "FILE_TYPE_FILE"
    return "FILE_TYPE_SYMLINK" if stat.S_ISLNK(mode) else "FILE_TYPE_UNSPECIFIED"
