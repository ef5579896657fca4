"""The list of a service's sandboxes, page by page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.endpoints import answers
from harness.endpoints.answers import Redact
from harness.endpoints.http_connection import Response


@dataclass(frozen=True, slots=True)
class Listed:
    id: str
    metadata: Mapping[str, str]


def items(
    response: Response, redact: Redact, ours: Callable[[Mapping[str, str]], bool]
) -> Sequence[Listed]:
    """The sandboxes on a page; without what is odd and a stranger's. Raises EndpointFailed for an
    odd one that is `ours` by its metadata, and for a page of another API."""
    what = "listing sandboxes"
    data = answers.json_of(response, what, redact)
    if not isinstance(data, list):
        raise answers.foreign(response, what, "a list", redact)
    objects = [each for each in data if isinstance(each, dict)]
    if data and not any("sandboxID" in each for each in objects):
        raise answers.foreign(response, what, "a valid sandboxID", redact)
    found = []
    for each in objects:
        metadata = each.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        texts = {str(name): str(value) for name, value in metadata.items()}
        try:
            id = answers.text_of(each, "sandboxID", answers.IDENTIFIER) or ""
        except ValueError as error:
            if ours(texts):
                raise answers.foreign(response, what, str(error), redact) from error
            continue
        found.append(Listed(id, texts))
    return found
