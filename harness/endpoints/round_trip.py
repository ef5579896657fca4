"""The network between this machine and a service: its part of every latency that is measured."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping, Sequence

from harness.endpoints.client import ApiClient
from harness.endpoints.http_connection import reason_of, resolved
from harness.errors import EndpointUnreachable

METRIC = "round-trip"
STOP = "the connection stands (tcp-connect), or the answer to GET /health is complete (request)"
LIMIT_S = 15.0


async def measured(client: ApiClient, count: int) -> Mapping[str, Sequence[float]]:
    """Seconds of `count` TCP connections to the API, and of as many smallest requests on a
    connection that is kept. Any answer to them counts: it is not asked what it says."""
    family, _, _, _, address = (await resolved(client.origin))[0]
    connects: list[float] = []
    loop = asyncio.get_running_loop()
    for _ in range(count):
        with socket.socket(family, socket.SOCK_STREAM) as plain:
            plain.setblocking(False)
            start = time.perf_counter()
            try:
                async with asyncio.timeout(LIMIT_S):
                    await loop.sock_connect(plain, address)
            except (OSError, TimeoutError) as error:
                why = reason_of(error, LIMIT_S)
                raise EndpointUnreachable(f"{client.origin} cannot be reached: {why}") from error
            connects.append(time.perf_counter() - start)
    await client.request("GET", "/health")
    requests = []
    for _ in range(count):
        response = await client.request("GET", "/health")
        requests.append(response.body_at - response.start)
    return {"tcp-connect": connects, "request": requests}
