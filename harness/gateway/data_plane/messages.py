"""The requests of envd's services and of the code interpreter, as schemas."""

from __future__ import annotations

from collections.abc import Mapping

from harness.gateway.request_schema import (
    FLAG,
    TEXT,
    TEXT_MAP,
    TEXTS,
    UNSIGNED,
    RequestSchema,
    Schema,
    fields,
    not_offered,
)

_CHOICE = {"pid": UNSIGNED, "tag": TEXT}
_SELECTOR = fields(**_CHOICE, selector=fields(**_CHOICE))
_BYTES = {"stdin": TEXT, "pty": TEXT}
_INPUT = fields(**_BYTES, input=fields(**_BYTES))
_PTY = fields(size=fields(cols=UNSIGNED, rows=UNSIGNED))
_STREAMED: dict[str, Schema] = {
    "start": fields(process=_SELECTOR), "data": fields(input=_INPUT), "keepalive": fields(),
}  # fmt: skip
_PATH = fields(path=TEXT)
_WATCH = fields(
    path=TEXT, recursive=FLAG,
    includeEntry=not_offered(FLAG), allowNetworkMounts=not_offered(FLAG),
)  # fmt: skip
_WATCHER = fields(watcherId=TEXT)

_BY_METHOD: Mapping[str, Schema] = {
    "process.Process/List": fields(),
    "process.Process/Start": fields(
        process=fields(cmd=TEXT, args=TEXTS, envs=TEXT_MAP, cwd=TEXT),
        pty=_PTY, tag=TEXT, stdin=FLAG,
    ),
    "process.Process/Connect": fields(process=_SELECTOR),
    "process.Process/Update": fields(process=_SELECTOR, pty=_PTY),
    "process.Process/SendInput": fields(process=_SELECTOR, input=_INPUT),
    "process.Process/StreamInput": fields(**_STREAMED, event=fields(**_STREAMED)),
    "process.Process/SendSignal": fields(
        process=_SELECTOR, signal={"type": ["string", "integer", "null"]}
    ),
    "process.Process/CloseStdin": fields(process=_SELECTOR),
    "filesystem.Filesystem/Stat": _PATH,
    "filesystem.Filesystem/MakeDir": _PATH,
    "filesystem.Filesystem/Remove": _PATH,
    "filesystem.Filesystem/Move": fields(source=TEXT, destination=TEXT),
    "filesystem.Filesystem/ListDir": fields(path=TEXT, depth=UNSIGNED),
    "filesystem.Filesystem/WatchDir": _WATCH,
    "filesystem.Filesystem/CreateWatcher": _WATCH,
    "filesystem.Filesystem/GetWatcherEvents": _WATCHER,
    "filesystem.Filesystem/RemoveWatcher": _WATCHER,
}  # fmt: skip
MESSAGES: Mapping[str, RequestSchema] = {
    method: RequestSchema(schema) for method, schema in _BY_METHOD.items()
}
"""By the path of the request, without its first slash."""
CELL = RequestSchema(
    {
        **fields(code={"type": "string"}, context_id=TEXT, language=TEXT, env_vars=TEXT_MAP),
        "type": "object",
        "required": ["code"],
    }
)
NEW_CONTEXT = RequestSchema({**fields(cwd=TEXT, language=TEXT), "type": "object"})
NOTHING = RequestSchema({**fields(), "type": "object"})
