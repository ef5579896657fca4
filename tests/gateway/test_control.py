"""The control plane: keys, errors, pages, limits; with the noop fleet where that suffices."""

from __future__ import annotations

import dataclasses
import json
import re
import socket
import ssl
import subprocess
import threading
import urllib.request
from collections import Counter
from pathlib import Path

import psutil
import pytest

from harness.gateway.gateway_process import GatewayProcess, new_key, running_gateway
from harness.gateway.sandboxes.store import FILE, Limits, opened
from harness.host.run import Run
from tests.gateway.client import Box
from tests.host.processes import eventually

JSON = {"Content-Type": "application/json"}
RESUMED_S = 15
"""The time limit of a sandbox that resumes by itself: a command must end within it."""


def error_status(response: tuple[int, bytes]) -> int:
    """The status of an error response, whose body must have E2B's format."""
    status, data = response
    body = json.loads(data)
    assert body["code"] == status and isinstance(body["message"], str)
    return status


def test_requests_need_a_valid_key(nothing: GatewayProcess) -> None:
    for key in ("", "e2b_" + "0" * 40, "\xe9"):
        assert (
            error_status(nothing.request("GET", "/v2/sandboxes", headers={"X-API-KEY": key})) == 401
        )
    assert nothing.request("GET", "/health", headers={"X-API-KEY": ""})[0] == 200
    revoked = new_key(nothing.directory)
    assert nothing.request("GET", "/v2/sandboxes", headers={"X-API-KEY": revoked})[0] == 200
    with opened(nothing.directory / FILE) as store:
        assert store.revoke(store.all_keys()[-1].id)
    assert (
        error_status(nothing.request("GET", "/v2/sandboxes", headers={"X-API-KEY": revoked})) == 401
    )


def test_only_the_hash_of_a_key_is_stored(nothing: GatewayProcess) -> None:
    whole = b"".join(path.read_bytes() for path in nothing.directory.glob(f"{FILE}*"))
    assert nothing.key.encode() not in whole and whole
    assert (nothing.directory / FILE).stat().st_mode & 0o077 == 0


def test_a_key_has_no_access_to_another_key_s_sandboxes(nothing: GatewayProcess) -> None:
    own = Box.create(nothing)
    other = {"X-API-KEY": new_key(nothing.directory), **JSON}
    assert nothing.request("GET", "/v2/sandboxes", headers=other) == (200, b"[]")
    snapshot = json.loads(nothing.request("POST", f"/sandboxes/{own.id}/snapshots", {}, JSON)[1])
    calls = [("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"),
             ("POST", "/connect"), ("POST", "/fork"), ("POST", "/refreshes"),
             ("GET", "/logs"), ("GET", "/metrics"), ("POST", "/snapshots")]  # fmt: skip
    for method, path in calls:
        body: object = {} if method == "POST" else None
        response = nothing.request(method, f"/sandboxes/{own.id}{path}", body, other)
        assert error_status(response) == 404, path
        unknown = nothing.request(method, f"/sandboxes/inothing{path}", body, other)
        assert response[1].replace(own.id.encode(), b"inothing") == unknown[1]
    body = {"templateID": snapshot["snapshotID"]}
    assert error_status(nothing.request("POST", "/v2/sandboxes", body, other)) == 404
    assert (
        error_status(nothing.request("DELETE", f"/templates/{snapshot['snapshotID']}", None, other))
        == 404
    )
    assert nothing.request("GET", f"/sandboxes/{own.id}")[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("PATCH", "/sandboxes", b"", 405),
        ("POST", "/v2/sandboxes", b"", 400),
        ("POST", "/v2/sandboxes", b"[]", 400),
        ("POST", "/v2/sandboxes", b'{"templateID":', 400),
        ("POST", "/v2/sandboxes", b'{"templateID": 7}', 400),
        ("POST", "/v2/sandboxes", b'{"templateID": "unknown"}', 404),
        ("POST", "/v2/sandboxes", b'{"templateID": "base", "timeout": 1e99}', 400),
        ("POST", "/v2/sandboxes", b'{"templateID": "base", "timeout": -1}', 400),
        ("POST", "/v2/sandboxes", b'{"templateID": "base", "network": {"allowOut": ["a.b"]}}', 400),
        ("POST", "/v2/sandboxes", b" " * (5 << 20), 413),
        ("POST", "/sandboxes/inothing/timeout", b'{"timeout": 1}', 404),
        ("GET", "/v2/sandboxes?limit=0", None, 400),
        ("GET", "/v2/sandboxes?limit=%D9%A1", None, 400),
        ("GET", "/v2/sandboxes?nextToken=x", None, 400),
        ("GET", "/v2/sandboxes?startedAfter=soon", None, 400),
        ("GET", "/v2/sandboxes?state=asleep", None, 400),
        ("GET", "/sandboxes/metrics", None, 400),
        ("DELETE", "/templates/base", None, 404),
    ],
)
def test_invalid_requests_get_errors_in_e2b_s_format(
    shared_nothing: GatewayProcess, method: str, path: str, body: bytes | None, status: int
) -> None:
    assert error_status(shared_nothing.request(method, path, body, JSON)) == status


def test_lists_are_filtered_and_paged(nothing: GatewayProcess) -> None:
    created = [Box.create(nothing, metadata={"n": str(n), "odd": str(n % 2)}).id for n in range(7)]
    ids, token = [], ""
    while True:
        path = f"/v2/sandboxes?limit=2&order=asc&metadata=odd%3D1{token}"
        request = urllib.request.Request(nothing.address + path, headers={"X-API-KEY": nothing.key})
        with urllib.request.urlopen(request) as response:
            ids += [listed["sandboxID"] for listed in json.load(response)]
            following = response.headers.get("x-next-token")
        if not following:
            break
        token = f"&nextToken={following}"
    assert ids == created[1::2]


def test_a_key_has_no_more_than_its_limits(nothing: GatewayProcess) -> None:
    """A thousand creations at once: as many as the limit succeed, the others get 429."""
    statuses: Counter[int] = Counter()

    def create() -> None:
        for _ in range(25):
            body = {"templateID": "base", "timeout": 60}
            statuses[nothing.request("POST", "/v2/sandboxes", body, JSON)[0]] += 1

    threads = [threading.Thread(target=create) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {201: 30, 429: 970}
    assert len(json.loads(nothing.request("GET", "/sandboxes")[1])) == 30


def test_a_key_is_limited_to_its_rate(nothing: GatewayProcess) -> None:
    slow = {"X-API-KEY": new_key(nothing.directory, Limits(rate=0.001, burst=3))}
    statuses = [nothing.request("GET", "/sandboxes", headers=slow)[0] for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]


def test_a_sandbox_ends_when_its_time_is_up(served: GatewayProcess) -> None:
    box = Box.create(served)
    assert box.run("echo here") == ("here\n", 0)
    box.end_in(1)
    eventually(lambda: served.request("GET", f"/sandboxes/{box.id}")[0] == 404, 120)
    status, body = box.rpc("process.Process/List", {})
    assert (status, body["message"]) == (502, "sandbox was not found")


def test_writes_of_a_restored_sandbox_reach_its_disk(served: GatewayProcess) -> None:
    """Since 10.0, QEMU aborts at the first write unless its disk was activated."""
    box = Box.create(served)
    try:
        assert box.run("echo one > file.txt; sync; cat file.txt") == ("one\n", 0)
        assert served.request("POST", f"/sandboxes/{box.id}/pause", {}, JSON)[0] == 204
        assert served.request("POST", f"/v2/sandboxes/{box.id}/connect", {}, JSON)[0] == 201
        assert box.run("echo two >> file.txt; sync; cat file.txt") == ("one\ntwo\n", 0)
    finally:
        box.kill()


def test_a_sandbox_that_pauses_when_its_time_is_up_resumes_with_traffic(
    served: GatewayProcess,
) -> None:
    box = Box.create(served, autoPause=True, autoResume={"enabled": True})
    box.run("echo kept > kept.txt")
    box.end_in(RESUMED_S)
    eventually(lambda: box.state() == "paused", 120)
    assert box.run("cat kept.txt") == ("kept\n", 0)
    assert box.kill() == 204


def test_two_connects_at_once_resume_one_sandbox(served: GatewayProcess) -> None:
    box = Box.create(served)
    assert served.request("POST", f"/sandboxes/{box.id}/pause", {}, JSON)[0] == 204
    assert served.request("POST", f"/sandboxes/{box.id}/pause", {}, JSON)[0] == 409
    served.wait_for_pool("base", 3)
    served.wait_for_pool("code-interpreter-v1", 3)
    before = _vmms(served)
    statuses: list[int] = []
    path = f"/v2/sandboxes/{box.id}/connect"
    threads = [
        threading.Thread(
            target=lambda: statuses.append(served.request("POST", path, {"timeout": 60}, JSON)[0])
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 201]
    assert box.run("echo back") == ("back\n", 0)
    assert _vmms(served) - before == 1
    assert box.kill() == 204


def _vmms(served: GatewayProcess) -> int:
    assert served.process
    children = psutil.Process(served.process.pid).children()
    return sum("qemu" in child.name() for child in children)


def test_a_caller_who_disconnects_during_creation_leaves_no_sandbox(served: GatewayProcess) -> None:
    """More creations than the pool has: those that wait end when their callers disconnect."""
    many = 40
    disconnects = 'coppice_requests_total{route="create_v2",status="499"}'
    before, disconnects_before = _ids(served), served.metric(disconnects)
    head = f"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-KEY: {served.key}\r\n"
    body = b'{"templateID": "base", "timeout": 600}'
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    connections = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(many)]
    for connection in connections:
        connection.sendall(request)
    waiting = "coppice_creations_waiting"
    eventually(lambda: served.metric(waiting) > many / 2, 120)
    for connection in connections:
        connection.close()
    eventually(lambda: served.metric(waiting) == 0, 120)
    created = _ids(served) - before  # they were ready before the callers disconnected
    eventually(lambda: len(created) + served.metric(disconnects) - disconnects_before == many, 120)
    assert len(created) < many
    for id in created:
        assert served.request("DELETE", f"/sandboxes/{id}")[0] == 204


def _ids(served: GatewayProcess) -> set[str]:
    return {listed["sandboxID"] for listed in json.loads(served.request("GET", "/v2/sandboxes")[1])}


def test_a_sandbox_killed_as_it_resumes_is_gone(served: GatewayProcess) -> None:
    box = Box.create(served)
    assert served.request("POST", f"/sandboxes/{box.id}/pause", {}, JSON)[0] == 204
    statuses: list[int] = []
    path = f"/v2/sandboxes/{box.id}/connect"
    resuming = threading.Thread(
        target=lambda: statuses.append(served.request("POST", path, {}, JSON)[0])
    )
    resuming.start()
    assert box.kill() == 204  # before, during or after: test_meanwhile.py fixes the moment
    resuming.join()
    assert statuses in ([201], [404])
    assert error_status(served.request("GET", f"/sandboxes/{box.id}")) == 404
    assert error_status(served.request("POST", path, {}, JSON)) == 404


def test_a_thousand_creations_against_a_small_pool(served: GatewayProcess) -> None:
    """As many as the key may have succeed, whether they are in the pool or still to be made; the
    others get 429, and the pool is full again afterwards."""
    limit = 14
    busy = dataclasses.replace(served, key=new_key(served.directory, Limits(sandboxes=limit)))
    statuses: Counter[int] = Counter()

    def create() -> None:
        for _ in range(25):
            body = {"templateID": "base", "timeout": 600}
            statuses[busy.request("POST", "/v2/sandboxes", body, JSON)[0]] += 1

    threads = [threading.Thread(target=create) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {201: limit, 429: 1000 - limit}
    created = _ids(busy)
    assert len(created) == limit
    for id in created:
        assert busy.request("DELETE", f"/sandboxes/{id}")[0] == 204
    served.wait_for_pool("base", 3)


def test_a_key_has_no_more_memory_than_its_limit(nothing: GatewayProcess) -> None:
    small = {"X-API-KEY": new_key(nothing.directory, Limits(memory_mib=2)), **JSON}
    responses = [
        nothing.request("POST", "/v2/sandboxes", {"templateID": "base"}, small) for _ in range(3)
    ]
    assert [status for status, _ in responses] == [201, 201, 429]
    assert b"2 MiB of memory" in responses[2][1]


def test_each_log_entry_is_a_line_of_json(run: Run, tmp_path: Path) -> None:
    with running_gateway(run, "--substrate", "noop", "--verbose") as process:
        Box.create(process).kill()
        process.request("GET", "/nothing")
        lines = (process.directory / "log").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    routes = {(line["route"], line["status"]) for line in entries if line["what"] == "request"}
    assert {("create_v2", 201), ("kill", 204), ("unknown", 404)} <= routes
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line["utc"]) for line in entries)
    assert not any(process.key in line for line in lines)  # no secrets in the log


def test_metrics_are_in_prometheus_s_format(served: GatewayProcess) -> None:
    text = served.request("GET", "/metrics")[1].decode()
    assert 'coppice_requests_total{route="create_v2",status="201"}' in text
    assert 'coppice_request_seconds_bucket{route="create_v2",le="+Inf"}' in text
    value = r"[0-9.e+-]+"
    label = r'[a-z_]+="[^"\\]*"'
    for line in text.splitlines():
        kind = re.fullmatch(r"# TYPE [a-z_]+ (counter|gauge|histogram)", line)
        assert kind or re.fullmatch(rf"[a-z_]+({{{label}(,{label})*}})? {value}", line), line


def test_with_tls_the_certificate_is_valid_for_every_sandbox_s_name(run: Run) -> None:
    with running_gateway(run, "--substrate", "noop", "--tls") as process:
        created = json.loads(
            process.request("POST", "/v2/sandboxes", {"templateID": "base"}, JSON)[1]
        )
        assert created["domain"] == f"sandboxes.localhost:{process.port}"
        assert (
            process.certificate
            and process.certificate.with_name("key.pem").stat().st_mode & 0o77 == 0
        )
        context = ssl.create_default_context(cafile=process.certificate)

        def response(name: str) -> bytes:
            with (
                socket.create_connection(("127.0.0.1", process.port)) as connection,
                context.wrap_socket(connection, server_hostname=name) as secured,
            ):
                head = f"GET /health HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
                secured.sendall(head.encode())
                return secured.makefile("rb").read()

        assert response(f"49999-{created['sandboxID']}.sandboxes.localhost").endswith(b"OK")
        assert b"204" in response(f"49983-{created['sandboxID']}.sandboxes.localhost")
        with pytest.raises(ssl.SSLCertVerificationError):
            response("elsewhere.test")


def test_a_second_gateway_cannot_use_the_same_state(nothing: GatewayProcess) -> None:
    done = subprocess.run(nothing.argv, env=dict(nothing.environment), capture_output=True)
    assert done.returncode == 64 and b"another gateway uses the state" in done.stderr


def test_older_sdks_name_a_sandbox_in_api_calls_and_later_by_its_token(
    nothing: GatewayProcess,
) -> None:
    box = Box.create(nothing)
    named = {"E2b-Sandbox-Id": box.id, "E2b-Sandbox-Port": "49983", **JSON}
    path = f"/sandboxes/{box.id}/connect"
    assert nothing.request("POST", path, {"timeout": 60}, named)[0] == 200
    other = {**named, "X-API-KEY": new_key(nothing.directory)}
    assert error_status(nothing.request("POST", path, {"timeout": 60}, other)) == 404

    def health(token: str) -> int:
        address = f"{nothing.address}/health"
        request = urllib.request.Request(address, headers={"X-Access-Token": token})
        with urllib.request.urlopen(request) as response:
            status: int = response.status
            return status

    assert health(box.token) == 204  # of envd
    assert health(box.token[:-1]) == 200  # of the gateway
    assert box.kill() == 204
    assert health(box.token) == 200
