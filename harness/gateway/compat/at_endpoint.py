"""The unmodified SDKs at a service that is known by its address: their variables, the limits that
they keep there, and the end of what they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.endpoints.address import split
from harness.endpoints.client import RUN_METADATA, opened
from harness.endpoints.facts import facts
from harness.endpoints.journal import RunJournal
from harness.endpoints.settings import TEMPLATE, Endpoint
from harness.errors import CoppiceError, UsageError
from harness.gateway.compat.columns import SANDBOXES_MOST
from harness.measure.endpoint_facts import EndpointFacts

COLUMNS_MOST = 3
"""Probes at the same time, as at our own gateway."""


def sdk_environment(endpoint: Endpoint) -> Mapping[str, str]:
    """The variables by which the SDKs use the service. UsageError for what they cannot do."""
    if endpoint.headers:
        raise UsageError(
            f"{endpoint.name} wants headers of its own, and the SDKs take none from outside",
            hint="measure it with: coppice run e2b-latency",
        )
    if not endpoint.verify:
        raise UsageError(
            f"the certificate of {endpoint.name} is not to be checked, and the SDKs check it",
            hint="name what signs it: --ca-file FILE",
        )
    variables = {"E2B_API_KEY": endpoint.key, "E2B_API_URL": endpoint.address}
    if endpoint.sandbox_url:
        variables["E2B_SANDBOX_URL"] = endpoint.sandbox_url
    host = split(endpoint.address)[0].host
    beside = host.removeprefix("api.") if host.startswith("api.") else None  # E2B's own convention
    if domain := endpoint.domain or beside:
        variables["E2B_DOMAIN"] = domain
    if endpoint.ca_file:
        file = str(endpoint.ca_file.resolve())
        variables |= {"SSL_CERT_FILE": file, "NODE_EXTRA_CA_CERTS": file}
    return variables


def paced(endpoint: Endpoint, run_id: str) -> tuple[int, Sequence[str]]:
    """How many probes may run at once within the service's limits, and the options of each."""
    assert endpoint.limits
    most, rate = endpoint.limits.most_sandboxes, endpoint.limits.most_per_second
    at_once = min(COLUMNS_MOST, most // SANDBOXES_MOST)
    if not at_once:
        raise UsageError(
            f"--most-sandboxes {most}: a probe has {SANDBOXES_MOST} sandboxes at once",
            hint=f"--most-sandboxes {SANDBOXES_MOST}",
        )
    options = ["--tag", f"{RUN_METADATA}={run_id}", "--apart", str(at_once / rate)]
    if endpoint.template != TEMPLATE:
        options += ["--template", endpoint.template]
    return at_once, options


async def greeted(endpoint: Endpoint, journal: RunJournal) -> EndpointFacts:
    """What is known of the service after one sandbox, before any probe. Raises EndpointFailed and
    its kind: a wrong key or a missing template is found here."""
    async with opened(endpoint, journal) as client:
        created = await client.create()
        await client.delete(created.id)
        return facts(client)


async def cleared(endpoint: Endpoint, journal: RunJournal) -> Sequence[str]:
    """Delete what the probes have left; what they should not have left, or why it is not known.

    The journal then knows that nothing of what was asked for is missing.
    """
    async with opened(endpoint, journal) as client:
        try:
            left = [one.id for one in await client.listed(journal.run_id)]
            for id in left:
                await client.delete(id)
        except CoppiceError as error:  # the session's end tries again
            return [f"whether the SDKs left sandboxes there is not known: {error.args[0]}"]
    journal.refused()
    return [f"the SDKs left {len(left)} sandboxes, which were deleted"] if left else []
