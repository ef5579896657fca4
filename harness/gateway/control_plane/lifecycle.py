"""What a sandbox does when its time is up, and what must hold before it is paused."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from harness.errors import CoppiceError
from harness.gateway.errors import ApiError
from harness.gateway.sandboxes.sandbox import Sandbox

HEALTH_S = 5.0


def with_lifecycle(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request for a sandbox with its `lifecycle` as `autoPause` and `autoResume`.

    Raises ApiError 400 where the two forms disagree.
    """
    lifecycle = body.get("lifecycle") or {}
    merged = dict(body)
    if lifecycle.get("onTimeout") is not None:
        pause = lifecycle["onTimeout"] == "pause"
        if merged.get("autoPause") not in (None, pause):
            raise ApiError(400, "autoPause and lifecycle.onTimeout disagree")
        merged["autoPause"] = pause
    if lifecycle.get("autoResume") is not None:
        resume = lifecycle["autoResume"]
        if (merged.get("autoResume") or {}).get("enabled") not in (None, resume):
            raise ApiError(400, "autoResume and lifecycle.autoResume disagree")
        merged["autoResume"] = {"enabled": resume}
    return merged


async def require_healthy(sandbox: Sandbox) -> None:
    """ApiError 503 unless the agent in a running sandbox answers."""
    if sandbox.envd is None:
        return  # paused: the pause itself says so
    try:
        async with asyncio.timeout(HEALTH_S):
            await sandbox.envd.stats()
    except (CoppiceError, TimeoutError) as error:
        message = "requireHealthyGuest: the sandbox does not answer, so it was not paused"
        raise ApiError(503, message) from error
