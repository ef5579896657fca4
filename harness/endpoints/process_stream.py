"""Requests into a sandbox that start a process or run a cell, and what their streams say.

envd speaks the Connect protocol: messages of a flag byte, four bytes of length, and JSON. The code
interpreter sends one JSON object a line.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness import strict_json
from harness.errors import EndpointFailed, NotOffered

LAST = 0x02
"""The flag of the message that ends a stream."""
COMPRESSED = 0x01
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended: when it was asked for, when its stream ended, what it returned."""

    start: float
    end: float
    stdout: str
    stderr: str
    code: int


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that has been executed. `error` is None unless it raised."""

    start: float
    end: float
    text: str
    stdout: str
    error: str | None


def encoded(argv: Sequence[str]) -> bytes:
    """The body of a request that starts a process."""
    start = {"process": {"cmd": argv[0], "args": list(argv[1:])}, "stdin": False}
    text = json.dumps(start).encode()
    return struct.pack(">BI", 0, len(text)) + text


def ran(body: bytes, start: float, end: float, argv: Sequence[str]) -> Ran:
    """A process's end from its stream. Raises EndpointFailed or NotOffered."""
    outputs: dict[str, list[bytes]] = {"stdout": [], "stderr": [], "pty": []}
    code: int | None = None
    finished = False
    for flags, message in _messages(body):
        if flags & LAST:
            finished = True
            _check_end(message, argv)
            continue
        event = message.get("event")
        event = event if isinstance(event, dict) else {}
        data = event.get("data")
        for name, text in (data if isinstance(data, dict) else {}).items():
            if name in outputs:
                outputs[name].append(_decoded(text))
        if "end" in event:
            code = _code(event["end"])
    if not finished or code is None:
        raise EndpointFailed(f"the stream of {argv[0]} ended before the process did")
    stdout, stderr = (b"".join(outputs[name]).decode(errors="replace") for name in _NAMES)
    return Ran(start, end, stdout, stderr, code)


_NAMES = ("stdout", "stderr")


def _messages(body: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    at = 0
    while at < len(body):
        if at + 5 > len(body):
            raise EndpointFailed("the stream of a process ends within a message")
        flags, length = struct.unpack_from(">BI", body, at)
        content = body[at + 5 : at + 5 + length]
        if len(content) < length or flags & COMPRESSED:
            raise EndpointFailed("the stream of a process is not in Connect's form")
        try:
            message = strict_json.loads(content) if content else {}
        except ValueError as error:
            raise EndpointFailed(f"a message of a process's stream is not JSON: {error}") from error
        if not isinstance(message, dict):
            raise EndpointFailed("a message of a process's stream is not a JSON object")
        yield flags, message
        at += 5 + length


def _check_end(message: Mapping[str, Any], argv: Sequence[str]) -> None:
    error = message.get("error")
    if not error:
        return
    code = error.get("code") if isinstance(error, dict) else None
    said = str(error.get("message") if isinstance(error, dict) else error)[:_SHOWN]
    kind = NotOffered if code == "unimplemented" else EndpointFailed
    raise kind(f"starting {argv[0]} was answered with {code}: {said!r}")


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(text if isinstance(text, str) else "?", validate=True)
    except binascii.Error as error:
        raise EndpointFailed("the output of a process is not in base64") from error


def _code(end: object) -> int:
    """The exit code; proto3's JSON leaves a zero out."""
    code = end.get("exitCode", 0) if isinstance(end, dict) else None
    if not isinstance(code, int) or isinstance(code, bool):
        raise EndpointFailed("the end of a process has no exit code")
    return code


def cell(body: bytes, start: float, end: float) -> Cell:
    """A cell's end from its lines. Raises EndpointFailed."""
    text, stdout, error = "", "", None
    for line in body.splitlines():
        if not line.strip():
            continue
        try:
            event = strict_json.loads(line)
        except ValueError as wrong:
            raise EndpointFailed(f"a line of a cell's stream is not JSON: {wrong}") from wrong
        if not isinstance(event, dict):
            raise EndpointFailed("a line of a cell's stream is not a JSON object")
        match event.get("type"):
            case "result":
                text = str(event.get("text") or text)
            case "stdout":
                stdout += str(event.get("text") or "")
            case "error":
                error = f"{event.get('name')}: {event.get('value')}"[:_SHOWN]
    return Cell(start, end, text, stdout, error)
