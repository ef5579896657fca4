"""How a stand-in behaves: independent settings, and names for the combinations that tests use."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Behaviour:
    """Without settings: an honest service that offers both versions of E2B's API."""

    api: str = "e2b"
    """`e2b`, or `cubesandbox`: the first version only, its shapes and messages, no token."""
    routing: str = "both"
    """How a request names its sandbox: `headers`, `host` (PORT-ID.DOMAIN), or `both`."""
    templates: Sequence[str] = ("base", "code-interpreter-v1")

    boot_s: tuple[float, float] = (0.0, 0.0)
    """A sandbox runs nothing for a time between these two after its creation was answered."""
    headers_s: float = 0.0
    """The time before the headers of each response."""
    headers_on: str = "any"
    """The operation whose headers wait so long: create, list, delete, command, cell; or `any`."""
    body_s: float = 0.0
    """The time between the headers and the body of each response of the API."""
    command_s: float = 0.0
    """The time that each command takes longer."""

    busy: int = 0
    """The status that answers creations while the service is busy: 429 or 503; 0 for none."""
    busy_every: int = 1
    """Every how many creations the service is busy: 1 for always."""
    retry_after: str = ""
    """The header Retry-After of those answers; none if empty."""

    quota: int = -1
    """How many sandboxes may exist, or with `quota_counts_made` be made at all; -1 for no limit."""
    quota_counts_made: bool = False
    quota_status: int = 429

    lie: str = ""
    """`no-sandbox`: creations are answered and nothing is made. `half`: that is so of every
    second, and it does not know those afterwards. `same`: all get the same sandbox.
    `echo`: the output of a command is the text that was sent. `ready`: it is always "ready"."""

    cut: str = ""
    """Where the service closes the connection: in the `header`, in the `body`, in the `stream`
    after its first message, or with no `answer` at all. What was asked for has been done."""
    cut_on: str = "create"
    """The operation that is cut: create, list, delete, command, cell; or `any`."""
    cut_after: int = 0
    """How many of these are answered in full before."""

    trickle_s: float = 0.0
    """The time between any two bytes of a response's headers."""

    create_body: str = "json"
    """What a creation is answered with: `json`, `endless` (it never ends), `trailers` (headers
    after it, which never end), `other-json` (that of another API), or `not-json`."""
    create_status: int = 201
    """The status that answers a creation that was carried out; with a page from 400 on."""
    command_body: str = "stream"
    """What a command is answered with: `stream`, `endless` (output without end), or `not-json`."""

    keeps_deleted: bool = False
    """A deletion is answered with 204, and the sandbox stays."""
    lives_s: float = 0.0
    """A sandbox dies by itself after this time; 0 for never."""

    strangers: int = 0
    """Sandboxes of other users that exist from the start, and are listed first."""
    lists: bool = True
    list_status: int = 0
    """The status that answers each list instead; 0 for none."""
    page: int = 0
    """Sandboxes on a page of the list, with x-next-token for the next; 0 for all on one."""
    last_page: bool = True
    """Whether there is one; else each page names a next."""
    same_page: bool = False
    """Each page of the list names itself as the next."""
    odd_strangers: bool = False
    """The list has sandboxes of others without a valid id."""
    jumping_clock: bool = False
    """The header Date names another century in every response."""


NAMED: Mapping[str, Mapping[str, Any]] = {
    "honest": {},
    "cubesandbox": {"api": "cubesandbox", "routing": "host", "boot_s": (2.0, 3.0)},
    "slow": {"headers_s": 0.2, "body_s": 0.3, "command_s": 0.4},
    "busy": {"busy": 429, "retry_after": "1"},
    "busy-silent": {"busy": 429},
    "unavailable": {"busy": 503},
    "busy-half": {"busy": 429, "busy_every": 2, "retry_after": "1"},
    "quota": {"quota": 2},
    "quota-half-way": {"quota": 3, "quota_counts_made": True, "quota_status": 403},
    "lying": {"lie": "no-sandbox"},
    "lying-echo": {"lie": "echo"},
    "lying-ready": {"lie": "ready"},
    "lying-half": {"lie": "half"},
    "lying-same": {"lie": "same"},
    "half-way-header": {"cut": "header"},
    "half-way-body": {"cut": "body"},
    "half-way-stream": {"cut": "stream", "cut_on": "command"},
    "answer-lost": {"cut": "answer"},
    "endless": {"create_body": "endless"},
    "endless-trailers": {"create_body": "trailers"},
    "endless-output": {"command_body": "endless"},
    "other-json": {"create_body": "other-json"},
    "not-json": {"create_body": "not-json"},
    "leaky": {"keeps_deleted": True},
    "forgetful": {"lives_s": 1.0},
    "no-list": {"lists": False},
    "list-fails": {"list_status": 500},
    "pages": {"page": 2},
    "pages-without-end": {"page": 2, "last_page": False},
    "trickling": {"trickle_s": 0.01},
    "jumping-clock": {"jumping_clock": True},
}


def behaviour(names: str, **settings: Any) -> Behaviour:
    """The behaviour with these names, separated by commas, and settings besides. ValueError for a
    name or a setting that there is not."""
    merged: dict[str, Any] = {}
    for name in filter(None, names.split(",")):
        if name not in NAMED:
            raise ValueError(f"no behaviour is called {name!r}; there are {', '.join(NAMED)}")
        merged |= NAMED[name]
    merged |= settings
    fields = {field.name for field in dataclasses.fields(Behaviour)}
    if unknown := sorted(merged.keys() - fields):
        raise ValueError(f"no setting is called {unknown[0]!r}; there are {', '.join(fields)}")
    return Behaviour(**merged)


def parsed(text: str) -> tuple[str, Any]:
    """A setting from a command line, NAME=VALUE; ValueError if it is none."""
    name, equals, value = text.partition("=")
    kinds = {field.name: field.default for field in dataclasses.fields(Behaviour)}
    if not equals or name not in kinds:
        raise ValueError(f"{text!r} is no setting; NAME=VALUE with one of {', '.join(kinds)}")
    kind = kinds[name]
    if isinstance(kind, bool):
        return name, value == "true"
    if isinstance(kind, tuple):
        several = value.split(",")
        return name, tuple(float(part) for part in several) if name == "boot_s" else tuple(several)
    assert isinstance(kind, int | float | str)
    return name, type(kind)(value)
