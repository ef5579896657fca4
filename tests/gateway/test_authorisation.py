"""What the gateway answers inside a sandbox's address to callers without its tokens."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from harness.gateway.errors import ApiError
from harness.gateway.gateway_process import GatewayProcess, new_key, running_gateway
from harness.gateway.wrong_credentials import ADDRESSES_MAX, BURST, WrongCredentials
from harness.host.run import Run
from tests.gateway.client import ENVD, INTERPRETER, Box

JSON = {"Content-Type": "application/json"}
SERVICES = [
    (ENVD, "POST", "/process.Process/List"),
    (ENVD, "POST", "/process.Process/Start"),
    (ENVD, "POST", "/filesystem.Filesystem/ListDir"),
    (ENVD, "GET", "/files?path=/etc/passwd"),
    (ENVD, "POST", "/files?path=/tmp/x"),
    (ENVD, "GET", "/envs"),
    (ENVD, "GET", "/metrics"),
    (ENVD, "GET", "/anything"),
    (INTERPRETER, "POST", "/execute"),
    (INTERPRETER, "GET", "/contexts"),
    (INTERPRETER, "POST", "/contexts"),
    (INTERPRETER, "DELETE", "/contexts/default"),
    (INTERPRETER, "POST", "/contexts/default/restart"),
    (INTERPRETER, "GET", "/anything"),
]


@pytest.fixture(scope="module")
def gateway(run: Run) -> Iterator[GatewayProcess]:
    """A gateway that no other module shares: these tests use up an address's wrong attempts."""
    pytest.importorskip("uvicorn")
    with running_gateway(run, "--substrate", "noop") as process:
        yield process


def ask(
    box: Box, port: int, method: str, path: str, body: Any = None, /, **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """A request with a sandbox's id and no other headers than those given."""
    connection = http.client.HTTPConnection("127.0.0.1", box.served.port, timeout=60)
    named = {"E2b-Sandbox-Id": box.id, "E2b-Sandbox-Port": str(port)}
    data = json.dumps(body or {}) if method != "GET" else None
    connection.request(method, path, data, {**named, **JSON, **headers})
    response = connection.getresponse()
    try:
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def test_every_service_in_a_sandbox_requires_a_token(gateway: GatewayProcess) -> None:
    box, other = Box.create(gateway), Box.create(gateway)
    for port, method, path in SERVICES:
        assert ask(box, port, method, path)[0] == 401, path
        wrong = {"X-Access-Token": other.token, "E2b-Traffic-Access-Token": other.traffic}
        assert ask(box, port, method, path, **wrong)[0] == 401, path
        right = ask(box, port, method, path, **{"X-Access-Token": box.token})
        assert right[0] not in (401, 403), path
    for port in (ENVD, INTERPRETER):  # a load balancer asks without a token
        assert ask(box, port, "GET", "/health")[0] in (200, 204)


def test_contexts_accept_the_token_that_sdks_send(gateway: GatewayProcess) -> None:
    """From 2.29 the SDKs send only the traffic token with requests about contexts."""
    box = Box.create(gateway)
    for headers in ({"X-Access-Token": box.token}, {"E2B-Traffic-Access-Token": box.traffic}):
        assert ask(box, INTERPRETER, "GET", "/contexts", **headers)[0] == 200


def test_a_websocket_to_a_service_needs_a_token_too(gateway: GatewayProcess) -> None:
    box = Box.create(gateway)
    for port in (ENVD, INTERPRETER):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as connection:
            connection.sendall(
                f"GET /contexts HTTP/1.1\r\nHost: x\r\nE2b-Sandbox-Id: {box.id}\r\n"
                f"E2b-Sandbox-Port: {port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n\r\n".encode()
            )
            assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_without_security_only_public_ports_need_no_token(gateway: GatewayProcess) -> None:
    headers = {"Content-Type": "application/json"}
    for network, status in (({}, 200), ({"allowPublicTraffic": False}, 401)):
        body = {"templateID": "base", "secure": False, "network": network}
        created = json.loads(gateway.request("POST", "/sandboxes", body, headers)[1])
        box = Box(gateway, created["sandboxID"], "", created["trafficAccessToken"])
        assert ask(box, INTERPRETER, "GET", "/contexts")[0] == status
        right = {"E2B-Traffic-Access-Token": box.traffic}
        assert ask(box, INTERPRETER, "GET", "/contexts", **right)[0] == 200


def test_a_caller_without_a_token_resumes_no_sandbox(gateway: GatewayProcess) -> None:
    box = Box.create(gateway, autoPause=True, autoResume={"enabled": True})
    assert gateway.request("POST", f"/sandboxes/{box.id}/pause", {}, JSON)[0] == 204
    for port, method, path in [*SERVICES, (ENVD, "GET", "/health")]:
        assert ask(box, port, method, path)[0] in (401, 502)
    assert box.state() == "paused"
    assert ask(box, ENVD, "GET", "/health", **{"X-Access-Token": box.token})[0] == 204
    assert box.state() == "running"


def test_an_address_may_fail_only_so_often(gateway: GatewayProcess) -> None:
    """Runs last: from here on this address is refused."""
    box = Box.create(gateway)
    url, wrong = "/v2/sandboxes", {"X-API-KEY": "e2b_" + "0" * 40}
    statuses = [gateway.request("GET", url, headers=wrong)[0] for _ in range(BURST + 20)]
    assert set(statuses) == {401, 429}
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    connection.request("GET", url, headers=wrong)
    response = connection.getresponse()
    assert response.status == 429 and int(response.headers["Retry-After"]) >= 1
    connection.close()
    status, _, headers = ask(box, INTERPRETER, "POST", "/contexts")
    assert status == 429 and headers["Retry-After"]
    status, data, _ = ask(box, ENVD, "POST", "/process.Process/List")
    assert (status, json.loads(data)["code"]) == (429, "resource_exhausted")
    # Keys and tokens that are right are served as before.
    assert gateway.request("GET", url)[0] == 200
    unused = {"X-API-KEY": new_key(gateway.directory)}
    assert gateway.request("GET", url, headers=unused)[0] == 200
    right = {"X-Access-Token": box.token}
    assert ask(box, ENVD, "POST", "/process.Process/List", **right)[0] == 200


def test_failures_are_counted_for_each_network() -> None:
    wrong, refusal = WrongCredentials(), ApiError(401, "wrong")
    for _ in range(BURST):
        assert wrong.answer("2001:db8::1", refusal) is refusal
    assert wrong.answer("2001:db8::ffff:2", refusal).status == 429  # the same /64
    assert wrong.answer("2001:db8:0:1::1", refusal) is refusal
    assert wrong.answer("192.0.2.1", refusal) is refusal


def test_remembered_addresses_are_bounded() -> None:
    wrong, refusal = WrongCredentials(), ApiError(401, "wrong")
    for number in range(ADDRESSES_MAX + 10):
        wrong.answer(f"198.51.{number >> 8}.{number & 255}", refusal)
    assert len(wrong._buckets) == ADDRESSES_MAX
