"""The control plane: E2B's operations on sandboxes over HTTP."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from harness.gateway.control_plane.call import Call, instant, page, place, read
from harness.gateway.control_plane.schemas import Operation, operations
from harness.gateway.errors import ApiError, as_http
from harness.gateway.sandboxes import usage
from harness.gateway.sandboxes.entries import Entry
from harness.gateway.sandboxes.service import Sandboxes
from harness.gateway.sandboxes.store import Key, Limits

ENVD_VERSION = "0.6.1"
CLIENT = "coppice"
V1_TIMEOUT_S, V2_TIMEOUT_S, FORK_TIMEOUT_S = 15, 300, 15
log = logging.getLogger("coppice.gateway")


class Buckets:
    """How often each key may still ask: so many at once, and so many a second."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, key: Key) -> None:
        now = time.monotonic()
        left, at = self._left.get(key.id, (float(key.limits.burst), now))
        left = min(left + (now - at) * key.limits.rate, key.limits.burst)
        if left < 1:
            self._left[key.id] = (left, now)
            raise ApiError(429, f"this key may ask {key.limits.rate:g} times a second")
        self._left[key.id] = (left - 1, now)


class Control:
    """Answers what openapi.yaml describes. Methods are named after its operations."""

    def __init__(self, sandboxes: Sandboxes, domain: str | None) -> None:
        self._sandboxes = sandboxes
        self._domain = domain
        self._buckets = Buckets()
        self._by_path: dict[tuple[str, str], tuple[Operation, Handler]] = {}
        self._patterns: list[tuple[str, Sequence[str], Operation, Handler]] = []
        for one in operations():
            handler: Handler = getattr(self, f"do_{one.id}")
            if "{" in one.path:
                self._patterns.append((one.method, one.path.split("/"), one, handler))
            else:
                self._by_path[one.method, one.path] = (one, handler)

    def _find(self, method: str, path: str) -> tuple[Operation, Handler, str]:
        found = self._by_path.get((method, path))
        if found:
            return (*found, "")
        words = path.split("/")
        others = any(at == path for _, at in self._by_path)
        for of, pattern, one, handler in self._patterns:
            if len(words) == len(pattern) and all(
                b == "{id}" or a == b for a, b in zip(words, pattern, strict=True)
            ):
                if of == method:
                    return one, handler, words[pattern.index("{id}")]
                others = True
        if others:
            raise ApiError(405, f"{method} is not offered at {path}")
        raise ApiError(404, f"there is nothing at {path}")

    async def answer(self, request: Request) -> Response:
        """Answer a request, whatever it is."""
        begun = time.perf_counter()
        route = "unknown"
        try:
            one, handler, id = self._find(request.method, request.scope["path"])
            route = one.id
            key = ANYONE if one.open else self._key(request)
            limit = key.limits.request_bytes
            body = one.body(await read(request, limit)) if request.method != "GET" else {}
            response = await handler(Call(key, id, request, body))
        except ClientDisconnect:
            response = Response(status_code=499)
        except Exception as error:
            said = as_http(error)
            if said.status >= 500:
                log.error(route, exc_info=not isinstance(error, ApiError))
            headers = {"Should-Retry": "true" if said.retry else "false"}
            response = JSONResponse(said.body(), said.status, headers)
        took = time.perf_counter() - begun
        self._sandboxes.meter.request(route, response.status_code, took)
        log.info(
            "request",
            extra={"fields": {"route": route, "status": response.status_code,
                              "ms": round(took * 1000, 2)}},
        )  # fmt: skip
        return response

    def _key(self, request: Request) -> Key:
        secret = request.headers.get("x-api-key", "")
        if not secret:
            raise ApiError(401, "an API key is needed, in the header X-API-KEY")
        key = self._sandboxes.store.key_of(secret)
        if key is None:
            raise ApiError(401, "the API key is not known here")
        self._buckets.take(key)
        return key

    def _of(self, call: Call) -> Entry:
        return self._sandboxes.of(call.key, call.id)

    # Sandboxes.

    async def do_health(self, call: Call) -> Response:
        return Response(b"OK", media_type="text/plain")

    async def do_create(self, call: Call) -> Response:
        return await self._create(call, V1_TIMEOUT_S)

    async def do_create_v2(self, call: Call) -> Response:
        return await self._create(call, V2_TIMEOUT_S)

    async def _create(self, call: Call, default_s: float) -> Response:
        creating = self._sandboxes.create(call.key, call.body, default_s)
        if self._sandboxes.has_ready(call.body["templateID"]):
            return JSONResponse(self.sandbox(await creating), 201)
        made, left = await call.watched(creating)
        if left:
            if made:  # nobody will ever name it
                await self._sandboxes.kill(made)
            return Response(status_code=499)
        assert made
        return JSONResponse(self.sandbox(made), 201)

    async def do_info(self, call: Call) -> Response:
        entry = self._of(call)
        return JSONResponse({**self.detail(entry), **self._tokens(entry)})

    async def do_list(self, call: Call) -> Response:
        """The first version: running ones only, all at once."""
        found = self._found(call, ["running"])
        return JSONResponse([self.detail(one) for one in found])

    async def do_list_v2(self, call: Call) -> Response:
        states = [one for one in ",".join(call.queries("state")).split(",") if one]
        if not set(states) <= {"running", "paused"}:
            raise ApiError(400, "a state is running or paused")
        found = self._found(call, states or ["running", "paused"])
        order = call.query("order") or "desc"
        if order not in ("asc", "desc"):
            raise ApiError(400, "order is asc or desc")
        if after := call.query("startedAfter"):
            since = instant(after)
            found = [one for one in found if one.record.started > since]
        if template := call.query("template"):
            found = [one for one in found if one.record.template == template]
        found.sort(key=place, reverse=order == "desc")
        chosen, headers = page(call, [(place(one), one) for one in found], order == "desc")
        return JSONResponse([self.detail(one) for one in chosen], headers=headers)

    def _found(self, call: Call, states: Sequence[str]) -> list[Entry]:
        wanted = dict(parse_qsl(call.query("metadata") or "", keep_blank_values=True))
        return [
            one
            for one in self._sandboxes.entries.values()
            if one.record.key_id == call.key.id
            and one.record.state in states
            and all(one.record.metadata.get(name) == value for name, value in wanted.items())
        ]

    async def do_kill(self, call: Call) -> Response:
        await self._sandboxes.kill(self._of(call))
        return Response(status_code=204)

    async def do_pause(self, call: Call) -> Response:
        entry = self._of(call)
        self._sandboxes.admit_kind(call.body.get("memory") is not False)
        await self._sandboxes.pause(entry)
        return Response(status_code=204)

    async def do_resume(self, call: Call) -> Response:
        entry = self._of(call)
        await self._sandboxes.resume(entry, float(call.body.get("timeout", V1_TIMEOUT_S)))
        return JSONResponse(self.sandbox(entry), 201)

    async def do_connect(self, call: Call) -> Response:
        return await self._connect(call, V1_TIMEOUT_S)

    async def do_connect_v2(self, call: Call) -> Response:
        return await self._connect(call, V2_TIMEOUT_S)

    async def _connect(self, call: Call, default_s: float) -> Response:
        entry = self._of(call)
        resumed = await self._sandboxes.connect(entry, float(call.body.get("timeout", default_s)))
        return JSONResponse(self.sandbox(entry), 201 if resumed else 200)

    async def do_timeout(self, call: Call) -> Response:
        await self._sandboxes.set_timeout(self._of(call), float(call.body["timeout"]))
        return Response(status_code=204)

    async def do_refreshes(self, call: Call) -> Response:
        await self._sandboxes.refresh(self._of(call), float(call.body.get("duration", 60)))
        return Response(status_code=204)

    async def do_network(self, call: Call) -> Response:
        rules = {name: one for name, one in call.body.items() if one is not None}
        await self._sandboxes.police(self._of(call), rules)
        return Response(status_code=204)

    async def do_fork(self, call: Call) -> Response:
        entry = self._of(call)
        self._sandboxes.admit_kind(True)
        timeout_s = float(call.body.get("timeout", FORK_TIMEOUT_S))
        count = int(call.body.get("count", 1))
        made = await self._sandboxes.copies.fork(call.key, entry, count, timeout_s)
        results = [
            {"error": one.body()} if isinstance(one, ApiError) else {"sandbox": self.sandbox(one)}
            for one in made
        ]
        return JSONResponse(results, 201)

    async def do_snapshot(self, call: Call) -> Response:
        entry = self._of(call)
        self._sandboxes.admit_kind(call.body.get("memory") is not False)
        made = await self._sandboxes.copies.take(entry, call.body.get("name"))
        return JSONResponse({"snapshotID": made.id, "names": made.names}, 201)

    async def do_snapshots(self, call: Call) -> Response:
        of = call.query("sandboxID")
        found = [
            one for one in self._sandboxes.copies.all(call.key) if of in (None, one.sandbox_id)
        ]
        places = [((one.created, one.id), one) for one in found]
        chosen, headers = page(call, places, True)
        shown = [{"snapshotID": one.id, "names": one.names} for one in chosen]
        return JSONResponse(shown, headers=headers)

    async def do_forget_snapshot(self, call: Call) -> Response:
        self._sandboxes.copies.forget(self._sandboxes.copies.find(call.key, call.id))
        return Response(status_code=204)

    # What is known of them.

    async def do_logs(self, call: Call) -> Response:
        start, limit = call.number("start", 0), call.number("limit", 1000)
        kept = [one for one in self._of(call).logs if one["at"] * 1000 >= start][:limit]
        lines = [{"timestamp": _utc(one["at"]), "line": one["message"]} for one in kept]
        return JSONResponse({"logs": lines, "logEntries": [_entry(one) for one in kept]})

    async def do_logs_v2(self, call: Call) -> Response:
        cursor, limit = call.number("cursor", -1), call.number("limit", 1000)
        backward = call.query("direction") == "backward"
        kept = list(self._of(call).logs)
        if backward:
            kept = [one for one in reversed(kept) if cursor < 0 or one["at"] * 1000 <= cursor]
        else:
            kept = [one for one in kept if one["at"] * 1000 >= cursor]
        return JSONResponse({"logs": [_entry(one) for one in kept[:limit]]})

    async def do_metrics(self, call: Call) -> Response:
        entry = self._of(call)
        await usage.sample(entry, self._sandboxes.fleet.disk_mib)
        start, end = call.number("start", 0), call.number("end", 1 << 62)
        kept = [one for one in entry.usage if start <= one["timestampUnix"] <= end]
        return JSONResponse(kept)

    async def do_metrics_of_many(self, call: Call) -> Response:
        ids = [one for one in ",".join(call.queries("sandbox_ids")).split(",") if one]
        if not 0 < len(ids) <= 100:
            raise ApiError(400, "sandbox_ids names 1 to 100 sandboxes")
        found = {}
        for id in ids:
            entry = self._sandboxes.entries.get(id)
            if entry and entry.record.key_id == call.key.id:
                await usage.sample(entry, self._sandboxes.fleet.disk_mib)
                if entry.usage:
                    found[id] = entry.usage[-1]
        return JSONResponse({"sandboxes": found})

    def _tokens(self, entry: Entry) -> Mapping[str, Any]:
        if not entry.record.secure:
            return {}
        return {"envdAccessToken": self._sandboxes.token(entry, "envd")}

    def sandbox(self, entry: Entry) -> Mapping[str, Any]:
        return {
            "templateID": entry.record.template,
            "sandboxID": entry.id,
            "clientID": CLIENT,
            "envdVersion": ENVD_VERSION,
            "domain": self._domain,
            "trafficAccessToken": self._sandboxes.token(entry, "traffic"),
            **self._tokens(entry),
        }

    def detail(self, entry: Entry) -> Mapping[str, Any]:
        record, fleet = entry.record, self._sandboxes.fleet
        when = "pause" if record.auto_pause else "kill"
        return {
            "templateID": record.template,
            "sandboxID": record.id,
            "clientID": CLIENT,
            "envdVersion": ENVD_VERSION,
            "domain": self._domain,
            "startedAt": _utc(record.started),
            "endAt": _utc(entry.ends),
            "cpuCount": 1,
            "memoryMB": fleet.memory_mib,
            "diskSizeMB": fleet.disk_mib,
            "state": record.state,
            "metadata": record.metadata,
            "lifecycle": {"autoResume": record.auto_resume, "onTimeout": when},
        }


Handler = Callable[[Call], Awaitable[Response]]
ANYONE = Key("", "", "", Limits(), 0)


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _entry(one: Mapping[str, Any]) -> Mapping[str, Any]:
    fields = {name: str(value) for name, value in one["fields"].items()}
    return {"timestamp": _utc(one["at"]), "message": one["message"], "level": one["level"],
            "fields": fields}  # fmt: skip
