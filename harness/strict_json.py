"""JSON as RFC 8259 has it, in and out.

Python's parser also accepts NaN and Infinity, numbers that no float can hold, lone surrogates, a
name twice in an object, bytes in UTF-16 or behind a byte order mark, and data nested so deep that
the next function to walk it fails; its writer makes the first of them. Here all of these are
errors: NotJson, which is a ValueError as Python's own are.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

DEPTH = 100
"""Levels of nesting that are accepted."""
DIGITS = 308
"""Digits of an integer that any float can hold."""

_EXTREME = re.compile(rb"[eE]\+?[1-9][0-9]{2}|[0-9]{309}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.S)
_ENCODINGS = {"utf-8-sig": "it begins with a byte order mark"}
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


class NotJson(ValueError):
    """The message says what is wrong, and repeats no more of the data than a name."""


def loads(text: str | bytes) -> Any:
    """Parse JSON. Raises NotJson."""
    try:
        data = text.encode() if isinstance(text, str) else text
        if isinstance(text, bytes):
            if (encoding := json.detect_encoding(text)) != "utf-8":
                raise NotJson(_ENCODINGS.get(encoding, f"it is {encoding.upper()}, and not UTF-8"))
            text = text.decode()
        elif text.startswith("\ufeff"):
            raise NotJson(_ENCODINGS["utf-8-sig"])
        parsed = (_with_extremes if _EXTREME.search(data) else _decode)(text)
        _check_depth(data)
        if _SURROGATE.search(data):
            json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise NotJson("a text holds half of a surrogate pair") from error
    except UnicodeDecodeError as error:
        raise NotJson(f"it is not UTF-8: {error}") from error
    except RecursionError as error:
        raise _too_deep() from error
    except NotJson:
        raise
    except ValueError as error:
        raise NotJson(str(error)) from error
    return parsed


def dumps(data: object, *, ascii: bool = False, **options: Any) -> str:
    """Write JSON, with other characters than ASCII as they are. Raises NotJson."""
    try:
        text = json.dumps(data, ensure_ascii=ascii, allow_nan=False, **options)
        text.encode()
    except UnicodeEncodeError as error:
        raise NotJson("a text holds half of a surrogate pair") from error
    except RecursionError as error:
        raise _too_deep() from error
    except (TypeError, ValueError) as error:
        raise NotJson(str(error)) from error
    return text


def without_infinities(data: Any) -> Any:
    """The same data with null for numbers that JSON does not have, such as a ratio to zero."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {name: without_infinities(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [without_infinities(value) for value in data]
    return data


def readable(text: str) -> str:
    """A text that UTF-8 can hold. Bytes of a path or an argument that were not text in the locale,
    which Python has as surrogates, become characters where they are UTF-8, and U+FFFD elsewhere."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise NotJson(f"the name {name[:100]!r} is repeated in an object")
            seen.add(name)
    return made


def _check_depth(data: bytes) -> None:
    if data.count(b"[") + data.count(b"{") <= DEPTH:
        return
    depth = 0
    for bracket in _STRING.sub(b"", data).translate(None, _OTHERS):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEPTH:
            raise _too_deep()


def _too_deep() -> NotJson:
    return NotJson(f"it is nested more than {DEPTH} levels deep")


def _constant(name: str) -> None:
    raise NotJson(f"{name} is not a JSON number")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise NotJson(f"the number {text[:20]} is out of range")
    return value


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > DIGITS:
        raise NotJson(f"a number of {len(text)} digits is out of range")
    return int(text)


_decode = json.JSONDecoder(parse_constant=_constant, object_pairs_hook=_object).decode
_with_extremes = json.JSONDecoder(
    parse_constant=_constant, parse_float=_float, parse_int=_integer, object_pairs_hook=_object
).decode
"""Slower: each number is looked at."""
