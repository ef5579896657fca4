"""The options by which rigs and commands name a service under test.

They are options of each such rig, so that `coppice run`, pytest's `--set` and the record have them
alike. What an option does not say, coppice.toml may.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import sys
from argparse import ArgumentTypeError
from collections.abc import Mapping
from pathlib import Path

from harness import option_types
from harness.endpoints import configuration
from harness.endpoints.address import checked, split
from harness.endpoints.answers import DOMAIN
from harness.endpoints.configuration import FILE, VALUE, Entry
from harness.endpoints.secret import Secret
from harness.endpoints.settings import FOREIGN, KEY_VARIABLE, TEMPLATE, Endpoint, Limits
from harness.errors import UsageError

OPTIONS: Mapping[str, str] = {
    "endpoint": "measure this service: the address of its E2B API, or its name in coppice.toml",
    "config": f"the file that names services (default: ./{FILE})",
    "api-key-env": f"the variable that holds the service's key (default: {KEY_VARIABLE})",
    "template": f"the service's template (default: {TEMPLATE})",
    "sandbox-url": "where its sandboxes are reached (default: as its answers say)",
    "domain": "the domain below which its sandboxes are hosts",
    "system": f"the system that serves there, such as cubesandbox (default: {FOREIGN})",
    "ca-file": "certificates to trust there",
    "machine": "what is known of the machines there, for the record",
    "price": "what a sandbox costs there an hour, such as '0.05 USD'",
    "most-sandboxes": "how many sandboxes may exist there at once",
    "most-per-second": "how many may be made there in a second",
}
LIMITS = ("most-sandboxes", "most-per-second")
PRICE = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(\S.{0,20})?")


def chosen(options: Mapping[str, str], *, limited: bool = True) -> Endpoint | None:
    """The service that options name; None if they name none.

    Raises UsageError; also, if `limited`, when no limits say how much may be made there.
    """
    named = options.get("endpoint")
    if not named:
        for name in OPTIONS:
            if options.get(name):
                raise UsageError(f"--{name} is of a service", hint="name it: --endpoint URL")
        return None
    name, entry = _entry(named, options.get("config"))
    values = {**entry.values, **{key: text for key in OPTIONS if (text := options.get(key))}}
    key_variable = configuration.variable(values.get("api-key-env", KEY_VARIABLE), "--api-key-env")
    headers: dict[str, str] = dict(entry.headers)
    for header, variable in entry.variables.items():
        headers[header] = _secret(variable, f"the header {header}")
    url = values.get("sandbox-url")
    return Endpoint(
        name=name,
        system=_system(values.get("system", FOREIGN)),
        address=checked(values["address"], "the address"),
        key=_secret(key_variable, "the key"),
        key_variable=key_variable,
        template=_template(values.get("template", TEMPLATE)),
        sandbox_url=checked(url, "--sandbox-url") if url else None,
        domain=_domain(values.get("domain")),
        headers=headers,
        ca_file=Path(values["ca-file"]) if "ca-file" in values else None,
        verify=entry.verify,
        price=_price(values.get("price")),
        tags=entry.tags,
        machine=values.get("machine"),
        limits=_limits(values, named, required=limited),
    )


def addressed(options: Mapping[str, str]) -> str:
    """The address of the service that options name. Raises UsageError."""
    named = options.get("endpoint")
    if not named:
        raise UsageError("no service is named", hint="--endpoint URL, or its name in coppice.toml")
    return checked(_entry(named, options.get("config"))[1].values["address"], "the address")


def _entry(named: str, config: str | None) -> tuple[str, Entry]:
    """The name of the service, and what the file says of it; for an address only that."""
    if "://" in named:
        address = checked(named, "--endpoint")
        return split(address)[0].authority, Entry({"address": address})
    path = Path(config or FILE)
    if not path.exists():
        if config:
            raise UsageError(f"--config {config}: there is no such file")
        raise UsageError(
            f"--endpoint {named}: this is no address, and there is no {FILE} here that names it",
            hint=f"--endpoint https://{named}" if "." in named else "--endpoint https://...",
        )
    entries = configuration.read(path)
    if named not in entries:
        near = difflib.get_close_matches(named, entries, 1) or sorted(entries)
        hint = f"it names {', '.join(near)}" if near else "--endpoint https://..."
        raise UsageError(f"{path} names no endpoint {named!r}", hint=hint)
    return named, entries[named]


def _secret(variable: str, what: str) -> Secret:
    value = Secret(os.environ.get(variable, ""))
    if not value:
        raise UsageError(
            f"the variable {variable}, which holds {what}, is not set",
            hint=f"export {variable}=...; or name another one: --api-key-env VARIABLE",
        )
    if not VALUE.fullmatch(value) or value != value.strip():
        raise UsageError(
            f"the variable {variable}, which holds {what}, has characters that no header may have "
            "(a space or a newline at its end?)"
        )
    return value


def _system(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", text):
        raise UsageError(
            f"--system {text}: a system's name has small letters, digits, '.', '_' and '-'",
            hint="--system cubesandbox",
        )
    return text


def _template(text: str) -> str:
    if not text.isprintable() or len(text) > 256:
        raise UsageError("--template: a template's name is one line of 256 characters at most")
    return text


def _domain(text: str | None) -> str | None:
    if text and not DOMAIN.fullmatch(text):
        raise UsageError(f"--domain {text}: this is no domain", hint="--domain example.org")
    return text or None


def _price(text: str | None) -> str | None:
    if text and not PRICE.fullmatch(text):
        raise UsageError(
            f"--price {text}: a price is a number and a currency", hint="--price '0.05 USD'"
        )
    return text or None


def _limits(values: Mapping[str, str], named: str, *, required: bool) -> Limits | None:
    missing = [name for name in LIMITS if name not in values]
    if missing:
        if not required:
            return None
        raise UsageError(
            f"how much may be made at {named} is not said: {' and '.join(missing)}",
            hint=f"coppice run RIG --endpoint {named} --most-sandboxes 10 --most-per-second 5 ...",
        )
    try:
        return Limits(
            option_types.number(1, 10**6)(values["most-sandboxes"]),
            option_types.rate(values["most-per-second"]),
        )
    except ArgumentTypeError as error:
        raise UsageError(f"--most-sandboxes or --most-per-second: {error}") from error


def asked_for(options: Mapping[str, str]) -> Mapping[str, str]:
    """The limits that are missing, from the user at the terminal; nothing without a terminal."""
    named = options.get("endpoint")
    if not named or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return {}
    values = {**_entry(named, options.get("config"))[1].values, **options}
    answers: dict[str, str] = {}
    for name in LIMITS:
        if not values.get(name):
            print(f"{named}: {OPTIONS[name]}? ", end="", file=sys.stderr, flush=True)
            answers[name] = sys.stdin.readline().strip()
            if not answers[name]:
                raise UsageError("nothing was measured", hint=f"--{name} N")
    return answers


def cost(endpoint: Endpoint, sandbox_seconds: float) -> str | None:
    """What so many seconds of a sandbox cost at most, if the price is told."""
    found = PRICE.fullmatch(endpoint.price) if endpoint.price else None
    if not found:
        return None
    amount = float(found[1]) * sandbox_seconds / 3600
    digits = max(2, 1 - math.floor(math.log10(amount))) if amount else 2
    return f"{amount:.{digits}f}{f' {found[2]}' if found[2] else ''}"
