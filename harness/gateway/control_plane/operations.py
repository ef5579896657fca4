"""The control plane: E2B's operations on sandboxes over HTTP."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from harness.errors import CoppiceError
from harness.gateway.control_plane import idempotency
from harness.gateway.control_plane.call import Call, metadata_filter, page, parse_time, position
from harness.gateway.control_plane.lifecycle import require_healthy, with_lifecycle
from harness.gateway.control_plane.rate_limit import RateLimiter
from harness.gateway.control_plane.schemas import Operation, operations
from harness.gateway.control_plane.views import Views, log_entry, log_line, snapshot_json
from harness.gateway.errors import ApiError, as_http
from harness.gateway.http.request_body import read_body
from harness.gateway.http.responses import Json
from harness.gateway.query_string import parameters
from harness.gateway.sandboxes import forks, usage
from harness.gateway.sandboxes.sandbox import Sandbox
from harness.gateway.sandboxes.service import Sandboxes
from harness.gateway.sandboxes.snapshots import Snapshots
from harness.gateway.sandboxes.store import Key, Limits
from harness.gateway.wrong_credentials import WrongCredentials

V1_TIMEOUT_S, V2_TIMEOUT_S, FORK_TIMEOUT_S = 15, 300, 15
CREATING = ("create", "create_v2")
"""The operations that know idempotency keys."""
LEVELS = ("debug", "info", "warn", "error")
"""Of log entries, the least severe first."""
KEY_REQUIRED = "an API key is required, in the header X-API-KEY"
NO_KEY = Key("", "", "", Limits(), 0)
"""For operations that need none."""
log = logging.getLogger("coppice.gateway")


class ControlPlane:
    """Answers what openapi.yaml describes. Methods are named after its operations."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        snapshots: Snapshots,
        domain: str | None,
        wrong: WrongCredentials,
    ) -> None:
        self._sandboxes = sandboxes
        self._wrong = wrong
        self._snapshots = snapshots
        self._views = Views(sandboxes, domain)
        self._rate_limiter = RateLimiter()
        self._repetitions = idempotency.Repetitions(sandboxes)
        self._by_path: dict[tuple[str, str], tuple[Operation, Handler]] = {}
        self._patterns: list[tuple[str, Sequence[str], Operation, Handler]] = []
        for operation in operations():
            handler: Handler = getattr(self, f"do_{operation.id}")
            method, path = operation.method, operation.path
            if "{" in path:
                self._patterns.append((method, path.split("/"), operation, handler))
            else:
                self._by_path[method, path] = (operation, handler)

    def _find(self, method: str, path: str) -> tuple[Operation, Handler, str]:
        found = self._by_path.get((method, path))
        if found:
            return (*found, "")
        parts = path.split("/")
        other_methods = any(known == path for _, known in self._by_path)
        for offered, pattern, operation, handler in self._patterns:
            if len(parts) == len(pattern) and all(
                expected in ("{id}", part) for part, expected in zip(parts, pattern, strict=True)
            ):
                if offered == method:
                    return operation, handler, parts[pattern.index("{id}")]
                other_methods = True
        if other_methods:
            raise ApiError(405, f"{path} does not support {method}")
        raise ApiError(404, f"there is no operation at {path}")

    async def answer(self, request: Request) -> Response:
        """The response to any request; errors are responses too."""
        begun = time.perf_counter()
        route = "unknown"
        try:
            operation, handler, id = self._find(request.method, request.scope["path"])
            route = operation.id
            key = NO_KEY if operation.open else self._key(request)
            data = b""
            if request.method != "GET":
                data = await read_body(request, key.limits.request_bytes)
            body = operation.body(data) if request.method != "GET" else {}
            if request.scope["query_string"]:
                operation.check_query(parameters(request))
            if idempotency.HEADER in request.headers and operation.id not in CREATING:
                raise ApiError(400, "Idempotency-Key is offered for creating sandboxes only")
            response = await handler(Call(key, id, request, body))
        except ClientDisconnect:
            response = Response(status_code=499)
        except Exception as error:
            failure = as_http(error)
            if failure.status >= 500:
                expected = isinstance(error, ApiError | CoppiceError)
                log.error(route, exc_info=not expected, extra={"fields": {"why": str(error)}})
            response = Json(failure.body(), failure.status, failure.headers())
        took = time.perf_counter() - begun
        self._sandboxes.metrics.request(route, response.status_code, took)
        if log.isEnabledFor(logging.INFO):
            fields = {"route": route, "status": response.status_code, "ms": round(took * 1000, 2)}
            log.info("request", extra={"fields": fields})
        return response

    def _key(self, request: Request) -> Key:
        """The key that the request presents. One that is right is served however many wrong ones
        its address has presented: others may share the address."""
        secret = request.headers.get("x-api-key", "")
        key = self._sandboxes.store.key_of(secret) if secret else None
        if key is None:
            address = request.client.host if request.client else ""
            message = "unknown or revoked API key" if secret else KEY_REQUIRED
            raise self._wrong.answer(address, ApiError(401, message))
        self._rate_limiter.take(key)
        return key

    def _sandbox(self, call: Call) -> Sandbox:
        return self._sandboxes.get(call.key, call.id)

    # Sandboxes.

    async def do_health(self, call: Call) -> Response:
        return Response(b"OK", media_type="text/plain")

    async def do_create(self, call: Call) -> Response:
        return await self._create(call, V1_TIMEOUT_S)

    async def do_create_v2(self, call: Call) -> Response:
        return await self._create(call, V2_TIMEOUT_S)

    async def _create(self, call: Call, default_s: float) -> Response:
        key = call.header(idempotency.HEADER)
        if not key:
            return await self._new(call, default_s, "")
        idempotency.require_valid(key)
        marked = idempotency.mark(key, call.body)
        async with self._repetitions.turn(call.key, key):
            if sandbox := self._repetitions.created(call.key, marked):
                return Json(self._views.access(sandbox), 201)
            return await self._new(call, default_s, marked)

    async def _new(self, call: Call, default_s: float, created_by: str) -> Response:
        sandboxes, template = self._sandboxes, call.body["templateID"]
        snapshot = None
        if template not in sandboxes.fleet.templates():
            snapshot = self._snapshots.find(call.key, template)
        body = with_lifecycle(call.body)
        creating = sandboxes.create(call.key, body, default_s, snapshot, created_by)
        sandbox, disconnected = await call.unless_disconnected(creating)
        if disconnected:
            if sandbox:  # the caller does not learn its id
                await sandboxes.kill(sandbox)
            return Response(status_code=499)
        assert sandbox
        return Json(self._views.access(sandbox), 201)

    async def do_info(self, call: Call) -> Response:
        sandbox = self._sandbox(call)
        return Json({**self._views.detail(sandbox), **self._views.envd_token(sandbox)})

    async def do_list(self, call: Call) -> Response:
        """Version 1: the running ones, without pages."""
        matching = self._matching(call, ["running"])
        return Json([self._views.detail(sandbox) for sandbox in matching])

    async def do_list_v2(self, call: Call) -> Response:
        states = call.comma_list("state")
        if not set(states) <= {"running", "paused"}:
            raise ApiError(400, "state must be running or paused")
        matching = self._matching(call, states or ["running", "paused"])
        order = call.query("order") or "desc"
        if order not in ("asc", "desc"):
            raise ApiError(400, "order must be asc or desc")
        if after := call.query("startedAfter"):
            since = parse_time(after)
            matching = [sandbox for sandbox in matching if sandbox.stored.started > since]
        if template := call.query("template"):
            matching = [sandbox for sandbox in matching if sandbox.stored.template == template]
        matching.sort(key=position, reverse=order == "desc")
        items = [(position(sandbox), sandbox) for sandbox in matching]
        chosen, headers = page(call, items, order == "desc")
        return Json([self._views.detail(sandbox) for sandbox in chosen], headers=headers)

    def _matching(self, call: Call, states: Sequence[str]) -> list[Sandbox]:
        """The key's sandboxes in these states that have the metadata of the query."""
        wanted = metadata_filter(call.query("metadata") or "")
        return [
            sandbox
            for sandbox in self._sandboxes.by_id.values()
            if sandbox.stored.key_id == call.key.id
            and sandbox.stored.state in states
            and all(sandbox.stored.metadata.get(name) == value for name, value in wanted.items())
        ]

    async def do_kill(self, call: Call) -> Response:
        await self._sandboxes.kill(self._sandbox(call))
        return Response(status_code=204)

    async def do_pause(self, call: Call) -> Response:
        sandbox = self._sandbox(call)
        self._sandboxes.require_saving(call.body.get("memory") is not False)
        if call.body.get("requireHealthyGuest"):
            await require_healthy(sandbox)
        await self._sandboxes.pause(sandbox)
        return Response(status_code=204)

    async def do_resume(self, call: Call) -> Response:
        sandbox = self._sandbox(call)
        self._require_restore(call, sandbox)
        auto_pause = call.body.get("autoPause")
        if auto_pause:
            self._sandboxes.require_saving(True)
        await self._sandboxes.resume(sandbox, call.seconds("timeout", V1_TIMEOUT_S))
        if auto_pause is not None:
            sandbox.stored.auto_pause = auto_pause
            self._sandboxes.store.put(sandbox.stored)
        return Json(self._views.access(sandbox), 201)

    async def do_connect(self, call: Call) -> Response:
        return await self._connect(call, V1_TIMEOUT_S)

    async def do_connect_v2(self, call: Call) -> Response:
        return await self._connect(call, V2_TIMEOUT_S)

    async def _connect(self, call: Call, default_s: float) -> Response:
        sandbox = self._sandbox(call)
        self._require_restore(call, sandbox)
        timeout_s = call.seconds("timeout", default_s)
        resumed = await self._sandboxes.connect(sandbox, timeout_s)
        return Json(self._views.access(sandbox), 201 if resumed else 200)

    def _require_restore(self, call: Call, sandbox: Sandbox) -> None:
        """ApiError 400 for a caller who wants a sandbox rebooted instead of restored."""
        paused, fleet = sandbox.stored.state == "paused", self._sandboxes.fleet
        if call.body.get("memory") is False and paused and fleet.saves_memory:
            raise ApiError(400, "memory: a resume without the saved memory is not offered")

    async def do_timeout(self, call: Call) -> Response:
        await self._sandboxes.set_timeout(self._sandbox(call), float(call.body["timeout"]))
        return Response(status_code=204)

    async def do_refreshes(self, call: Call) -> Response:
        await self._sandboxes.refresh(self._sandbox(call), call.seconds("duration", 60))
        return Response(status_code=204)

    async def do_network(self, call: Call) -> Response:
        rules = {name: rule for name, rule in call.body.items() if rule is not None}
        await self._sandboxes.set_network_rules(self._sandbox(call), rules)
        return Response(status_code=204)

    async def do_fork(self, call: Call) -> Response:
        sandbox = self._sandbox(call)
        self._sandboxes.require_saving(True)
        timeout_s = call.seconds("timeout", FORK_TIMEOUT_S)
        count = int(call.body.get("count") or 1)
        copies = await forks.fork(self._sandboxes, call.key, sandbox, count, timeout_s)
        results = [
            {"error": copy.body()}
            if isinstance(copy, ApiError)
            else {"sandbox": self._views.access(copy)}
            for copy in copies
        ]
        return Json(results, 201)

    async def do_snapshot(self, call: Call) -> Response:
        sandbox = self._sandbox(call)
        self._sandboxes.require_saving(call.body.get("memory") is not False)
        snapshot = await self._snapshots.take(sandbox, call.body.get("name"))
        return Json(snapshot_json(snapshot), 201)

    async def do_snapshots(self, call: Call) -> Response:
        source, name = call.query("sandboxID"), call.query("name")
        items = [
            ((snapshot.created, snapshot.id), snapshot)
            for snapshot in self._snapshots.of(call.key)
            if source in (None, snapshot.sandbox_id)
            and (name is None or name in (snapshot.id, *snapshot.names))
        ]
        chosen, headers = page(call, items, True)
        return Json([snapshot_json(snapshot) for snapshot in chosen], headers=headers)

    async def do_forget_snapshot(self, call: Call) -> Response:
        self._snapshots.remove(self._snapshots.find(call.key, call.id))
        return Response(status_code=204)

    # Logs and metrics.

    async def do_logs(self, call: Call) -> Response:
        start, limit = call.number("start", 0), call.number("limit", 1000)
        logs = self._sandbox(call).logs
        entries = [entry for entry in logs if entry["at"] * 1000 >= start][:limit]
        lines = [log_line(entry) for entry in entries]
        return Json({"logs": lines, "logEntries": [log_entry(entry) for entry in entries]})

    async def do_logs_v2(self, call: Call) -> Response:
        cursor, limit = call.number("cursor", -1), call.number("limit", 1000)
        least, search = LEVELS.index(call.query("level") or "debug"), call.query("search") or ""
        entries = [
            entry
            for entry in self._sandbox(call).logs
            if LEVELS.index(entry["level"]) >= least and search in entry["message"]
        ]
        if call.query("direction") == "backward":
            entries.reverse()
            entries = [entry for entry in entries if cursor < 0 or entry["at"] * 1000 <= cursor]
        else:
            entries = [entry for entry in entries if entry["at"] * 1000 >= cursor]
        return Json({"logs": [log_entry(entry) for entry in entries[:limit]]})

    async def do_metrics(self, call: Call) -> Response:
        sandbox = self._sandbox(call)
        await usage.sample(sandbox, self._sandboxes.fleet.disk_mib)
        start, end = call.number("start", 0), call.number("end", 1 << 62)
        samples = [sample for sample in sandbox.usage if start <= sample["timestampUnix"] <= end]
        return Json(samples)

    async def do_metrics_of_many(self, call: Call) -> Response:
        ids = call.comma_list("sandbox_ids")
        if not 0 < len(ids) <= 100:
            raise ApiError(400, "sandbox_ids must name 1 to 100 sandboxes")
        latest = {}
        for id in ids:
            sandbox = self._sandboxes.by_id.get(id)
            if sandbox and sandbox.stored.key_id == call.key.id:
                await usage.sample(sandbox, self._sandboxes.fleet.disk_mib)
                if sandbox.usage:
                    latest[id] = sandbox.usage[-1]
        return Json({"sandboxes": latest})


Handler = Callable[[Call], Awaitable[Response]]
