"""The list of a service's sandboxes, page by page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.endpoints import answers
from harness.endpoints.answers import Redact
from harness.endpoints.http_connection import Response


@dataclass(frozen=True, slots=True)
class Listed:
    id: str
    metadata: Mapping[str, str]


def items(response: Response, redact: Redact) -> Sequence[Listed]:
    """The sandboxes on a page. Raises EndpointFailed for one that has another form."""
    what = "listing sandboxes"
    data = answers.json_of(response, what, redact)
    if not isinstance(data, list):
        raise answers.foreign(response, what, "a list", redact)
    found = []
    for one in data:
        one = one if isinstance(one, dict) else {}
        try:
            id = answers.text_of(one, "sandboxID", answers.IDENTIFIER) or ""
        except ValueError as error:
            raise answers.foreign(response, what, str(error), redact) from error
        metadata = one.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        found.append(Listed(id, {str(name): str(value) for name, value in metadata.items()}))
    return found
