"""The query strings of the gateway's own services. Malformed ones are refused: parsers replace or
drop what they do not understand."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from starlette.datastructures import QueryParams
from starlette.requests import Request

from harness.gateway.errors import ApiError

_BROKEN = re.compile(r"%(?![0-9A-Fa-f]{2})")
BROKEN = "has a % without two hexadecimal digits"


def parameters(request: Request) -> QueryParams:
    """ApiError 400 for a query string that is malformed."""
    text = request.scope["query_string"].decode("latin-1")
    if "%" in text:
        check_percents(text, "the query string")
    return request.query_params


def refuse_any(request: Request) -> None:
    """ApiError 400 for a query string, of a request that has no parameters."""
    if request.scope["query_string"]:
        name = next(iter(parameters(request)), "")
        raise ApiError(400, f"unknown query parameter {name!r}")


def check_percents(text: str, what: str) -> None:
    """ApiError 400 for percent-encoding that is broken, or that is no UTF-8."""
    if _BROKEN.search(text):
        raise ApiError(400, f"{what} {BROKEN}")
    try:
        unquote_to_bytes(text).decode()
    except UnicodeDecodeError as error:
        raise ApiError(400, f"{what} is not UTF-8") from error
