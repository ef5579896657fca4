"""What a service answers, turned into values and typed errors. Nothing of it is trusted."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness import strict_json
from harness.endpoints.http_connection import Response
from harness.errors import (
    EndpointFailed,
    KeyRefused,
    NotOffered,
    Refused,
    TemplateMissing,
)

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Of a sandbox. It becomes part of paths, headers and names of hosts."""
TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
DOMAIN = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
    r"(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
)
"""With a port that there can be."""
SHOWN = 200
"""Characters of an answer that a message repeats."""
LONGEST_RETRY_S = 3600.0
_TIMEOUTS = (408, 499)
_QUOTA = re.compile(r"quota|limit|maximum|concurren|capacity|exceed|too many", re.I)
_TEMPLATE = re.compile(r"template", re.I)
_ABSENT = re.compile(r"not found|no such|not exist|unknown|missing|invalid|does not", re.I)


@dataclass(frozen=True, slots=True)
class Created:
    """A sandbox that the service says it has made. `start` is the request, `headers` when the
    answer's headers were complete, `body` when its body was."""

    id: str
    start: float
    headers: float
    body: float
    domain: str | None
    raw: Mapping[str, Any] = field(repr=False)
    token: str | None = field(repr=False, default=None)


Redact = Callable[[str], str]
"""Takes what must not be shown out of a text."""


def shown(body: bytes, redact: Redact) -> str:
    """An answer as part of a message: its own message where it has one, on one line, shortened."""
    text = body[: 16 * SHOWN].decode(errors="replace")
    try:
        parsed = strict_json.loads(body)
        message = parsed.get("message") or parsed.get("error") or parsed.get("detail")
        text = message if isinstance(message, str) else text
    except (ValueError, AttributeError):
        pass
    # Before it is shortened: half of a key would not be recognised.
    text = " ".join("".join(c if c.isprintable() else " " for c in redact(text)).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def retry_after(response: Response) -> float | None:
    """The seconds that a Retry-After header names. A date counts from the answer's own date, since
    clocks differ."""
    value = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        return min(float(value), LONGEST_RETRY_S)
    try:
        until = email.utils.parsedate_to_datetime(value)
        now = email.utils.parsedate_to_datetime(response.headers.get("date", ""))
        return min(max((until - now).total_seconds(), 0.0), LONGEST_RETRY_S)
    except (ValueError, TypeError):
        return None


def error_of(response: Response, what: str, redact: Redact, key: str) -> EndpointFailed:
    """The error of an answer that is not a success. `what` was asked; `key` names the key."""
    said = shown(response.body, redact)
    answered = f"{what} was answered with {response.status}{f': {said}' if said else ''}"
    match response.status:
        case 401:
            return KeyRefused(f"the key is not accepted: {answered}", hint=f"the key is {key}")
        case 402 | 429 | 503 | 507:
            return Refused(answered, retry_after(response))
        case 403:
            if _QUOTA.search(said):
                return Refused(answered, retry_after(response))
            return KeyRefused(f"the key is not accepted: {answered}", hint=f"the key is {key}")
        case 400 | 404 | 422 if _TEMPLATE.search(said) and _ABSENT.search(said):
            return TemplateMissing(answered, hint="name another one: --template TEMPLATE")
        case 404 | 405 | 501:
            return NotOffered(answered)
        case status if 300 <= status < 400:
            to = redact(response.headers.get("location", "nowhere"))[:SHOWN]
            return EndpointFailed(
                f"{what} was answered with {status}: the service is at another address, {to!r}"
            )
    return EndpointFailed(answered)


def makes_nothing(status: int) -> bool:
    """Whether a creation with this answer has certainly made nothing. An error of the service or
    of a proxy in front of it may come after the sandbox was made, and so may an odd success."""
    return (300 <= status < 500 and status not in _TIMEOUTS) or status in (501, 503, 507)


def json_of(response: Response, what: str, redact: Redact) -> Any:
    """The JSON of a response. Raises EndpointFailed."""
    try:
        return strict_json.loads(response.body)
    except ValueError as error:
        said = shown(response.body, redact)
        raise EndpointFailed(
            f"{what} was answered with {response.status} and no JSON ({error}): {said}"
        ) from error


def object_of(response: Response, what: str, redact: Redact) -> Mapping[str, Any]:
    """The JSON object of a response. Raises EndpointFailed."""
    data = json_of(response, what, redact)
    if not isinstance(data, dict):
        raise foreign(response, what, "a JSON object", redact)
    return data


def foreign(response: Response, what: str, lacks: str, redact: Redact) -> EndpointFailed:
    """The error of JSON that another API may have, but not this one."""
    return EndpointFailed(
        f"{what} was answered with {response.status} and JSON of another API, without {lacks}: "
        f"{shown(response.body, redact)}"
    )


def text_of(
    data: Mapping[str, Any], name: str, pattern: re.Pattern[str], *, optional: bool = False
) -> str | None:
    """A text of an object if it has the form of `pattern`; None if it has not and is optional.

    Raises ValueError, with what is lacking.
    """
    value = data.get(name)
    if optional and value in (None, ""):
        return None
    if isinstance(value, str) and pattern.fullmatch(value):
        return value
    raise ValueError(f"a valid {name}")


def created(response: Response, what: str, redact: Redact) -> Created:
    """The sandbox that a response says was made. Raises EndpointFailed."""
    data = object_of(response, what, redact)
    try:
        id = text_of(data, "sandboxID", IDENTIFIER) or ""
        token = text_of(data, "envdAccessToken", TOKEN, optional=True)
        domain = text_of(data, "domain", DOMAIN, optional=True)
    except ValueError as error:
        raise foreign(response, what, str(error), redact) from error
    if redact(id) != id or (domain and redact(domain) != domain):
        raise foreign(response, what, "a sandboxID and a domain that are no secret", redact)
    times = response.start, response.headers_at, response.body_at
    return Created(id, *times, domain, data, token)


def facts_of(response: Response, made: Created, path: str) -> Mapping[str, str]:
    """What the answer to a creation shows of a service, for its record."""
    shown_as = {
        "server": response.headers.get("server"),
        "via": response.headers.get("via"),
        "envd": made.raw.get("envdVersion"),
        "template": made.raw.get("templateID"),
        "domain": made.domain,
        "route of creations": path,
    }
    return {
        name: "".join(c for c in value if c.isprintable())[:SHOWN]
        for name, value in shown_as.items()
        if isinstance(value, str) and value
    }
