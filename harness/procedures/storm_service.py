"""The service of a storm that is not ours: what the user is told, and what is asked of it first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from harness.endpoints import facts, round_trip, session
from harness.endpoints import options as endpoint_options
from harness.endpoints.client import ApiClient, Journal, opened
from harness.endpoints.settings import Endpoint
from harness.errors import (
    EndpointFailed,
    EndpointUnreachable,
    KeyRefused,
    NotOffered,
    SandboxError,
    TemplateMissing,
)
from harness.measure.collector import Collector
from harness.measure.endpoint_facts import EndpointFacts
from harness.procedures import endpoint_storm
from harness.procedures.api_latency import Inside, explored
from harness.procedures.storm_options import StormOptions

ROUND_TRIPS = 20
POINTLESS = (EndpointUnreachable, KeyRefused, TemplateMissing, NotOffered)
"""What keeps every arrival from getting a sandbox: there is nothing to measure."""
Tell = Callable[[str], object]


@contextlib.contextmanager
def begun(endpoint: Endpoint, run_id: str, tell: Tell, into: Collector) -> Iterator[Journal]:
    """A run at a service that is not ours: what it and its generators made is deleted."""
    try:
        with session.begun(endpoint, run_id, tell) as run:
            yield run.journal
        into.doubts += run.left
    finally:
        session.reclaim(endpoint, tell)  # after generators that were killed


async def surveyed(
    endpoint: Endpoint, journal: Journal, into: Collector
) -> tuple[Inside | None, EndpointFacts]:
    """What the sandboxes of the service have, None if it would not tell, and what it answers; adds
    the network to it."""
    async with opened(endpoint, journal) as client:
        for what, samples in (await round_trip.measured(client, ROUND_TRIPS)).items():
            into.add(round_trip.METRIC, "s", samples, of=what)
        return await _inside(client, into), facts.facts(client)


async def _inside(client: ApiClient, into: Collector) -> Inside | None:
    try:
        return await explored(client)
    except POINTLESS:
        raise
    except (EndpointFailed, SandboxError) as error:
        # A service that is busy or breaks some creations is what a storm is to show.
        into.doubts.append(f"before the storm no sandbox could be looked into: {error.args[0]}")
        return None


def announce(endpoint: Endpoint, asked: StormOptions, tell: Tell) -> None:
    """What the user should know before anything is made."""
    schedule, count = asked.schedule(), f"{len(asked.schedule())} "
    when = f"within {schedule.duration_s:.0f} s"
    if asked.sweep:
        count, when = "", f"at {asked.rate:g} a second and more, as far as its limits allow"
    kept = ", held until all are there" if asked.hold else ""
    tell(
        f"{endpoint.name}: {count}sandboxes of {endpoint.template} will be made {when}{kept}; "
        "all are deleted"
    )
    price = endpoint_options.cost(endpoint, len(schedule) * endpoint_storm.LONGEST_LIFE_S)
    if price and not asked.sweep:
        tell(f"  they cost {price} at most, if each lived until its timeout")
