"""What goes on the record of a service under test: what is known of it, and what is not."""

from __future__ import annotations

from harness.endpoints.client import ApiClient
from harness.measure.endpoint_facts import EndpointFacts

UNKNOWN = (
    "what else runs there",
    "whether sandboxes wait ready, and what was run in them before",
    "what runs its guests",
    "what its template holds",
)


def facts(client: ApiClient) -> EndpointFacts:
    """Of a service that was measured with this client. Nothing here is a secret."""
    endpoint = client.endpoint
    told: dict[str, str | bool | None] = {
        "machine": endpoint.machine,
        "template": endpoint.template,
        "price of a sandbox and hour": endpoint.price,
        "tags": ", ".join(endpoint.tags) or None,
        "sandbox-url": endpoint.sandbox_url,
        "domain": endpoint.domain,
        "headers": ", ".join(sorted(endpoint.headers)) or None,
        "certificate checked": None if endpoint.verify else False,
    }
    limits = endpoint.limits
    return EndpointFacts(
        name=endpoint.name,
        system=endpoint.system,
        address=endpoint.address,
        told={name: value for name, value in told.items() if value is not None},
        answered={**client.answered, "TLS": client.tls or "none"},
        unknown=UNKNOWN if endpoint.machine else ("its machine", *UNKNOWN),
        not_offered=client.not_offered,
        limits={
            "most sandboxes at once": limits.most_sandboxes,
            "most creations a second": limits.most_per_second,
        }
        if limits
        else {},
    )
