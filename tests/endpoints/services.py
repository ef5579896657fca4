"""Endpoints of stand-ins, for tests that use the client or the rigs on them."""

from __future__ import annotations

from typing import Any

from harness.endpoints.settings import Endpoint
from tests.stand_ins.server import Standing


def endpoint(service: Standing, **settings: Any) -> Endpoint:
    by_host = service.service.behaviour.routing == "host"
    url = None if by_host else service.address  # then the answer to a creation names the host
    given = {"key": service.key, "template": "base", "sandbox_url": url, **settings}
    return Endpoint("stand-in", "stand-in", service.address, **given)
