"""coppice.toml: services under test by name, with everything but their keys.

::

    [endpoints.cube]
    address = "https://cube.example.org"
    system = "cubesandbox"
    api-key-env = "CUBE_API_KEY"    # the variable that holds the key
    template = "code-interpreter-v1"
    sandbox-url = "https://proxy.example.org"
    domain = "cube.example.org"     # sandboxes are hosts below it, all served by sandbox-url
    ca-file = "ca.pem"              # beside this file
    verify = true
    price = "0.05 USD"              # a sandbox and hour
    machine = "4 nodes of 8 cores and 15 GiB"
    tags = ["eu"]
    most-sandboxes = 60
    most-per-second = 10
    headers = { X-Team = "a", X-Other = { variable = "OTHER" } }
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import UsageError

FILE = "coppice.toml"
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
VALUE = re.compile(r"[\x20-\x7e]{0,4096}")
LONGEST = 1 << 20
"""Bytes of a file, at most."""
_SECRET = re.compile(
    r"key|token|secret|passw|passphrase|auth(?!ors?\b)|cookie|credential|bearer|jwt|signature", re.I
)
_A_KEY = re.compile(
    r"\b(e2b|sk|cube)[_-](?:[a-z]{2,8}[_-])?[0-9A-Za-z]{16,}|\bBearer\s+\S{8,}|\bBasic\s+[0-9A-Za-z+/]{8,}="
    r"|\bgh[a-z]_[0-9A-Za-z]{16,}|\beyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}"
)
OURS = (
    "host", "content-length", "content-type", "transfer-encoding", "connection", "x-api-key",
    "user-agent", "accept", "x-access-token", "e2b-sandbox-id", "e2b-sandbox-port",
    "connect-protocol-version",
)  # fmt: skip
"""Headers that the client itself sends."""
OF_THE_CONNECTION = (
    "accept-encoding", "expect", "keep-alive", "proxy-connection", "te", "trailer", "upgrade",
)  # fmt: skip
"""Headers that would change how a request or its answer is sent, and so what is measured."""


@dataclass(frozen=True)
class Entry:
    """One service of the file. `values` are those of options, by the option's name; `variables`
    names the variable that holds a header's value."""

    values: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    verify: bool = True


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("must be a text")
    return value


def _count(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("must be a whole number from 1 on")
    return str(value)


def _rate(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise ValueError("must be a positive number")
    return str(value)


VALUES: Mapping[str, Callable[[Any], str]] = {
    "address": _text,
    "system": _text,
    "api-key-env": _text,
    "template": _text,
    "sandbox-url": _text,
    "domain": _text,
    "ca-file": _text,
    "price": _text,
    "machine": _text,
    "most-sandboxes": _count,
    "most-per-second": _rate,
}
OTHERS = ("headers", "tags", "verify")


def read(path: Path) -> Mapping[str, Entry]:
    """The services of a file by name. Raises UsageError."""
    try:
        if not path.is_file():  # a pipe might never end
            raise UsageError(f"{path} is no regular file")
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
        if len(content) > LONGEST:
            raise UsageError(f"{path} is longer than {LONGEST >> 10} KiB")
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8: {error.reason}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if _A_KEY.search(text):
        raise UsageError(
            f"{path} holds what looks like a key: keys stay in variables",
            hint='api-key-env = "VARIABLE"',
        )
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    _refuse_unknown(data, ("endpoints",), str(path), "table")
    tables = data.get("endpoints", {})
    if not isinstance(tables, dict):
        raise UsageError(f"{path}: endpoints must be a table", hint="[endpoints.NAME]")
    return {name: _entry(path, name, table) for name, table in tables.items()}


def _entry(path: Path, name: str, table: Any) -> Entry:
    where = f"{path}, endpoints.{name}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise UsageError(f"{where}: a name has letters, digits, - and _, 64 at most")
    if not isinstance(table, dict):
        raise UsageError(f"{where} must be a table", hint=f"[endpoints.{name}]")
    for key in table:
        if _SECRET.search(key) and key not in VALUES:
            raise UsageError(
                f"{where}: {key} would hold a secret in clear",
                hint='name the variable that holds it: api-key-env = "VARIABLE"',
            )
    _refuse_unknown(table, (*VALUES, *OTHERS), where, "key")
    if "address" not in table:
        raise UsageError(f"{where} has no address", hint='address = "https://api.example.org"')
    values: dict[str, str] = {}
    for key, parse in VALUES.items():
        if key in table:
            try:
                values[key] = parse(table[key])
            except ValueError as error:
                raise UsageError(f"{where}: {key} {error}") from error
    if "ca-file" in values:
        values["ca-file"] = str(path.parent / values["ca-file"])
    verify, tags = table.get("verify", True), table.get("tags", [])
    if not isinstance(verify, bool):
        raise UsageError(f"{where}: verify must be true or false")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise UsageError(f"{where}: tags must be a list of texts")
    headers, variables = _headers(where, table.get("headers", {}))
    return Entry(values, headers, variables, tuple(tags), verify)


def _headers(where: str, table: Any) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The headers that stand in the file, and the variables of the others."""
    if not isinstance(table, dict):
        raise UsageError(f"{where}: headers must be a table", hint='headers = {X-Team = "a"}')
    headers: dict[str, str] = {}
    variables: dict[str, str] = {}
    for name, value in table.items():
        if not HEADER.fullmatch(name) or name.lower() in (*OURS, *OF_THE_CONNECTION):
            raise UsageError(f"{where}: {name!r} is no header that can be added")
        if name.lower() in {known.lower() for known in (*headers, *variables)}:
            raise UsageError(f"{where}: the header {name} is there twice")
        if isinstance(value, dict) and list(value) == ["variable"]:
            variables[name] = variable(value["variable"], f"{where}, headers.{name}")
        elif _SECRET.search(name):
            raise UsageError(
                f"{where}: the header {name} would hold a secret in clear",
                hint=f'headers = {{ {name} = {{ variable = "VARIABLE" }} }}',
            )
        elif isinstance(value, str) and _A_KEY.search(value):  # written with escapes
            raise UsageError(f"{where}: the header {name} holds what looks like a key")
        elif isinstance(value, str) and VALUE.fullmatch(value):
            headers[name] = value
        else:
            raise UsageError(f"{where}: the header {name} must be a text in ASCII")
    return headers, variables


def variable(name: Any, where: str) -> str:
    """The name of a variable that holds a secret. Raises UsageError, which does not repeat it: it
    might be the secret itself."""
    if not isinstance(name, str) or not VARIABLE.fullmatch(name) or _A_KEY.search(name):
        raise UsageError(
            f"{where}: what is given is no name of a variable, and must not be the key itself",
            hint="export E2B_API_KEY=...; then --api-key-env E2B_API_KEY",
        )
    if name.startswith("COPPICE_"):
        raise UsageError(f"{where}: {name} would be on the record, as every COPPICE_ variable is")
    return name


def _refuse_unknown(
    table: Mapping[str, Any], known: tuple[str, ...], where: str, what: str
) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise UsageError(f"{where}: there is no {what} {key!r}", hint=hint)
