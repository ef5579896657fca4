"""Dataclasses as the JSON documents of the store, also from other versions of Coppice."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

OTHERS = "others"
"""The field that takes what this version does not know, if a class has it."""
T = TypeVar("T")


def encoded(stored: Any) -> str:
    document = dict(vars(stored))
    return json.dumps({**document.pop(OTHERS, {}), **document}, separators=(",", ":"))


def decoded(kind: type[T], document: Any) -> T:
    """Raises ValueError or TypeError where a document does not fit; fields of other versions do
    no harm."""
    if not isinstance(document, Mapping):
        raise ValueError("it is no object")
    given: Any = kind
    types = _types(given)
    known = {name: value for name, value in document.items() if name in types}
    for name, value in known.items():
        if not isinstance(value, types[name]) or (
            isinstance(value, bool) and types[name] is not bool
        ):
            raise ValueError(f"{name} is {value!r}")
    others = {name: value for name, value in document.items() if name not in types}
    if others and OTHERS in kind.__annotations__:
        known[OTHERS] = others
    return kind(**known)


@functools.cache
def _types(kind: Any) -> Mapping[str, Any]:
    """What the value of each field must be an instance of."""
    hints = {name: getattr(hint, "__origin__", hint) for name, hint in get_type_hints(kind).items()}
    return {
        name: int | float if hint is float else hint
        for name, hint in hints.items()
        if name != OTHERS
    }
