"""The client of a service under test: one asyncio client for latencies, storms and compatibility.

It speaks E2B's API: sandboxes are created, asked to run something, and deleted. Errors are typed:
Refused (it sheds load), NotOffered (it does not have the operation), EndpointFailed (anything else
that it does), GuestTimeout (it did not answer in time).
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from harness.endpoints import answers, listing, process_stream
from harness.endpoints.address import ENVD, INTERPRETER, Origin
from harness.endpoints.answers import Created
from harness.endpoints.connections import Connections
from harness.endpoints.http_connection import BODY_LIMIT, Call, Response
from harness.endpoints.listing import Listed
from harness.endpoints.pace import Pace
from harness.endpoints.process_stream import Cell, Ran
from harness.endpoints.routes import Routes, needs_user
from harness.endpoints.secret import Secret
from harness.endpoints.settings import Endpoint
from harness.errors import CoppiceError, EndpointFailed, EndpointUnreachable, NotOffered

__all__ = ["RUN_METADATA", "ApiClient", "Cell", "Created", "Listed", "Ran", "Response", "opened"]

RUN_METADATA = "coppice-run"
"""The metadata of each sandbox that names its run: by it a sandbox is found whose creation was
asked for, but not answered."""
CREATE_S, CALL_S, RUN_S = 120.0, 60.0, 60.0
CREATED_LIMIT = 1 << 20
"""Bytes of the answer to a creation: many are under way at once."""
LIFE_S = 300
"""Seconds after which the service is to end a sandbox by itself, unless the caller says."""
CREATE_PATHS = ("/v2/sandboxes", "/sandboxes")
LIST_PATHS = ("/v2/sandboxes", "/sandboxes")
PAGES = 200
"""Of a list, at most."""
_JSON = "Content-Type: application/json\r\n"
_CONNECT = "Content-Type: application/connect+json\r\nConnect-Protocol-Version: 1\r\n"


class Journal(Protocol):
    """Keeps on disk what is made at a service. harness/endpoints/journal.py."""

    run_id: str

    def asked(self, life_s: float) -> None: ...
    def refused(self) -> None: ...
    def made(self, id: str) -> None: ...
    def gone(self, id: str) -> None: ...


class NoJournal:
    """For services whose sandboxes end with their caller, such as a gateway of the same run."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id

    def asked(self, life_s: float) -> None: ...
    def refused(self) -> None: ...
    def made(self, id: str) -> None: ...
    def gone(self, id: str) -> None: ...


class ApiClient:
    """`alive` are the sandboxes that it has made and not deleted, by id. `answered` is what the
    first creation showed of the service, `not_offered` what it does not have, with its answer.
    `absent`: how many it did not have any more when they were to be deleted."""

    def __init__(self, endpoint: Endpoint, journal: Journal) -> None:
        self.endpoint = endpoint
        self.alive: dict[str, Created] = {}
        self.answered: Mapping[str, str] = {}
        self.not_offered: dict[str, str] = {}
        self.absent = 0
        self._journal = journal
        self._pace = Pace(endpoint.limits)
        self._connections = Connections(endpoint.tls_context)
        self._routes = Routes(endpoint)
        self._origin, self._prefix = self._routes.api
        own = Secret("".join(f"{name}: {value}\r\n" for name, value in endpoint.headers.items()))
        self._common = Secret(f"User-Agent: coppice\r\nAccept: */*\r\n{own}")
        key = Secret(f"X-API-KEY: {endpoint.key}\r\n" if endpoint.key else "")
        self._head = Secret(f"Host: {self._origin.authority}\r\n{self._common}{key}")
        self._create_path = self._prefix + CREATE_PATHS[0]
        self._create_known = False
        self._plain_body = self._create_body({})

    # Sandboxes.

    async def create(self, body: Mapping[str, Any] | None = None) -> Created:
        """Create a sandbox of the endpoint's template; `body` adds to the request or replaces parts
        of it. The clock starts before the request is built, and after any wait for the limits."""
        await self._pace.wait(len(self.alive))
        try:
            start = time.perf_counter()
            content, life_s = self._create_body(body) if body else self._plain_body
            self._journal.asked(life_s)
            response = await self._send(
                self._origin,
                "POST",
                self._create_path,
                self._head + _JSON,
                content,
                start,
                CREATE_S,
                CREATED_LIMIT,
            )
            if response.status in (404, 405, 501) and not self._create_known:
                response = await self._create_elsewhere(content, response)
            created = self._created(response)
            self.alive[created.id] = created
        except EndpointUnreachable:
            self._journal.refused()  # nothing was asked
            raise
        finally:
            self._pace.done()
        try:
            self._journal.made(created.id)
        except CoppiceError:  # nothing else would know of it
            with contextlib.suppress(CoppiceError):
                await self.delete(created.id)
            raise
        return created

    async def _create_elsewhere(self, content: bytes, first: Response) -> Response:
        """The same by the older route, which some services have alone. It is used from now on."""
        path = self._prefix + CREATE_PATHS[1]
        start = time.perf_counter()
        response = await self._send(
            self._origin, "POST", path, self._head + _JSON, content, start, CREATE_S,
            CREATED_LIMIT,
        )  # fmt: skip
        if response.status == 201:
            self._create_path, self._create_known = path, True
            self._error(first, f"creating a sandbox by {CREATE_PATHS[0]}")  # as not offered
        return response if response.status not in (404, 405, 501) else first

    def _create_body(self, body: Mapping[str, Any] | None) -> tuple[bytes, float]:
        asked = {"templateID": self.endpoint.template, "timeout": LIFE_S, **(body or {})}
        asked["metadata"] = {**asked.get("metadata", {}), RUN_METADATA: self._journal.run_id}
        return json.dumps(asked).encode(), float(asked["timeout"])

    def _created(self, response: Response) -> Created:
        what = "creating a sandbox"
        if response.status != 201:
            if answers.makes_nothing(response.status):
                self._journal.refused()
            raise self._error(response, what)
        created = answers.created(response, what, self.endpoint.redacted)
        if created.id in self.alive:  # one machine for everybody would be very quick
            raise EndpointFailed(f"the service hands out the sandbox {created.id} twice")
        if not self._create_known or not self.answered:
            self._create_known = True
            self.answered = {
                name: self.endpoint.redacted(value)
                for name, value in answers.facts_of(response, created, self._create_path).items()
            }
        return created

    async def delete(self, id: str) -> bool:
        """End a sandbox. False: the service does not have it."""
        response = await self.request("DELETE", f"/sandboxes/{quote(id, safe='')}")
        if response.status not in (200, 202, 204, 404):
            raise self._error(response, f"deleting the sandbox {id}")
        if created := self.alive.pop(id, None):
            self.absent += response.status == 404
            place = self._routes.into(created, ENVD)[0]
            if id in place.host:  # a host of its own
                self._connections.forget(place)
        self._journal.gone(id)
        return response.status != 404

    async def listed(self, run_id: str | None = None) -> Sequence[Listed]:
        """The sandboxes that the service has, of one run if it is named. Raises NotOffered.

        Both lists are read: CubeSandbox cuts the newer one before it looks for the run, and names
        no next page.
        """

        def ours(metadata: Mapping[str, str]) -> bool:
            return run_id in (None, metadata.get(RUN_METADATA))

        found: dict[str, Listed] = {}
        missing: list[NotOffered] = []
        for path in LIST_PATHS:
            try:
                async for each in self._pages(path, run_id, ours):
                    if ours(each.metadata):
                        found[each.id] = each
            except NotOffered as error:
                missing.append(error)
        if len(missing) == len(LIST_PATHS):
            raise missing[0]
        return list(found.values())

    async def _pages(
        self, path: str, run_id: str | None, ours: Callable[[Mapping[str, str]], bool]
    ) -> AsyncIterator[Listed]:
        newer = path == LIST_PATHS[0]
        query = {"limit": "100"} if newer else {}  # the older list has no pages
        if run_id:
            query["metadata"] = urlencode({RUN_METADATA: run_id})
        seen: set[str] = set()
        for _ in range(PAGES):
            asked = f"{path}?{urlencode(query)}" if query else path
            response = await self.request("GET", asked)
            if response.status != 200:
                raise self._error(response, f"listing sandboxes at {path}")
            for each in listing.items(response, self.endpoint.redacted, ours):
                yield each
            token = query["nextToken"] = response.headers.get("x-next-token", "")
            if not newer or not token or token in seen:
                return
            seen.add(token)
        raise EndpointFailed(f"the list of sandboxes goes on after {PAGES} pages")

    # Work inside a sandbox.

    async def run(self, created: Created, argv: Sequence[str], timeout_s: float = RUN_S) -> Ran:
        """Run a command and wait for its end; `end` is when its stream ended."""
        what = f"starting {argv[0]}"
        response = await self._into(
            created, ENVD, "POST", "/process.Process/Start", _CONNECT,
            process_stream.encoded(argv), timeout_s,
        )  # fmt: skip
        if response.status != 200:
            raise self._error_inside(response, what, created)
        try:
            ran = process_stream.ran(response.body, response.start, response.body_at, argv)
            # A service that repeats its key must not bring it into a record.
            shown = self.endpoint.redacted
            return dataclasses.replace(ran, stdout=shown(ran.stdout), stderr=shown(ran.stderr))
        except EndpointFailed as error:
            raise self._noted(what, type(error)(self.endpoint.redacted(error.args[0]))) from None

    async def run_code(self, created: Created, code: str, timeout_s: float = RUN_S) -> Cell:
        """Execute a cell in the sandbox's code interpreter and wait for its end."""
        body = json.dumps({"code": code}).encode()
        response = await self._into(
            created, INTERPRETER, "POST", "/execute", _JSON, body, timeout_s
        )
        if response.status != 200:
            raise self._error_inside(response, "executing a cell", created)
        shown = self.endpoint.redacted
        cell = process_stream.cell(response.body, response.start, response.body_at)
        error = None if cell.error is None else shown(cell.error)
        return dataclasses.replace(
            cell, text=shown(cell.text), stdout=shown(cell.stdout), error=error
        )

    async def upload(
        self, created: Created, path: str, content: bytes, timeout_s: float = RUN_S
    ) -> Response:
        """Write a file in the sandbox, as the SDK does."""
        boundary = uuid.uuid4().hex
        part = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{path}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = part.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        head = f"Content-Type: multipart/form-data; boundary={boundary}\r\n"
        target = f"/files?{urlencode({'path': path})}"
        response = await self._into(created, ENVD, "POST", target, head, body, timeout_s)
        if response.status not in (200, 201, 204):
            raise self._error_inside(response, f"uploading {path}", created)
        return response

    async def _into(
        self, created: Created, port: int, method: str, target: str, head: str,
        body: bytes | None, timeout_s: float,
    ) -> Response:  # fmt: skip
        start = time.perf_counter()
        origin, host, prefix = self._routes.into(created, port)
        token = Secret(f"X-Access-Token: {created.token}\r\n" if created.token else "")
        about = Secret(
            f"Host: {host}\r\nE2b-Sandbox-Id: {created.id}\r\nE2b-Sandbox-Port: {port}\r\n"
            f"{self._common}{token}{head}"
        )
        if port == ENVD and needs_user(created.raw.get("envdVersion")):
            about += f"Authorization: Basic {base64.b64encode(b'user:').decode()}\r\n"
        try:
            return await self._send(origin, method, prefix + target, about, body, start, timeout_s)
        except EndpointUnreachable as error:
            if origin == self._origin or error.hint:
                raise
            hint = "if its sandboxes are reached elsewhere: --sandbox-url URL"
            raise EndpointUnreachable(str(error.args[0]), hint=hint) from error

    # Requests.

    async def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Response:  # fmt: skip
        """Any request to the API, with the key. `body` becomes JSON, unless it is bytes."""
        start = time.perf_counter()
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        head = self._head + (_JSON if data is not None else "")
        head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        return await self._send(
            self._origin, method, self._prefix + path, head, data, start, timeout_s or CALL_S
        )

    async def request_into(
        self, created: Created, port: int, method: str, path: str, body: bytes | None = None,
        headers: Mapping[str, str] | None = None, timeout_s: float = RUN_S,
    ) -> Response:  # fmt: skip
        """Any request to a port of a sandbox, with its token."""
        head = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        return await self._into(created, port, method, path, head, body, timeout_s)

    async def warm(self, count: int = 1) -> None:
        """Have this many connections to the API open, and to the sandboxes if they have one place,
        so that no measured request waits for one."""
        await self._connections.warm(self._origin, count)
        if self._routes.sandboxes and self._routes.sandboxes[0] != self._origin:
            await self._connections.warm(self._routes.sandboxes[0], count)

    @property
    def origin(self) -> Origin:
        """Where the API is."""
        return self._origin

    @property
    def tls(self) -> str:
        """The version and cipher of connections to the API; empty without TLS."""
        return self._connections.tls_of.get(self._origin, "")

    @property
    def connections(self) -> int:
        """The connections that are open."""
        return self._connections.count

    def close(self) -> None:
        self._connections.close()

    async def _send(
        self, origin: Origin, method: str, target: str, head: str, body: bytes | None,
        start: float, timeout_s: float, limit: int = BODY_LIMIT,
    ) -> Response:  # fmt: skip
        call = Call(method, target, head, body, start, timeout_s, limit)
        connection = self._connections.idle(origin) or await self._connections.opened(origin)
        try:
            return await connection.send(call)
        finally:
            self._connections.give_back(connection)

    def _error(self, response: Response, what: str) -> EndpointFailed:
        key = f"in the variable {self.endpoint.key_variable}"
        return self._noted(what, answers.error_of(response, what, self.endpoint.redacted, key))

    def _noted(self, what: str, error: EndpointFailed) -> EndpointFailed:
        if isinstance(error, NotOffered):
            self.not_offered.setdefault(what, str(error.args[0]))
        return error

    def _error_inside(self, response: Response, what: str, created: Created) -> EndpointFailed:
        """The error of a request into a sandbox: its key is not in question there."""

        def redact(text: str) -> str:
            text = self.endpoint.redacted(text)
            return text.replace(created.token, "(left out)") if created.token else text

        said = answers.shown(response.body, redact)
        answered = f"{what} was answered with {response.status}{f': {said}' if said else ''}"
        if response.status in (404, 502) and "sandbox" in said.lower():
            return EndpointFailed(f"the service said that it made {created.id}, but {answered}")
        if response.status in (404, 405, 501):
            return self._noted(what, NotOffered(answered))
        if response.status in (401, 403):
            return EndpointFailed(answered)
        return self._error(response, what)


@contextlib.asynccontextmanager
async def opened(
    endpoint: Endpoint, journal: Journal | None = None, run_id: str = ""
) -> AsyncIterator[ApiClient]:
    """A client, whose connections are closed at the end. What it made is deleted by the journal's
    owner (harness/endpoints/session.py); without a journal it is the caller's."""
    client = ApiClient(endpoint, journal or NoJournal(run_id))
    try:
        yield client
    finally:
        client.close()
