"""The control plane: keys, errors, paging, limits, time limits; over nothing where that will do."""

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

from harness.gateway.gateway_process import FILE, Running, gateway, new_key
from harness.gateway.sandboxes.store import Limits, opened
from harness.host.run import Run
from tests.gateway.client import Box
from tests.host.processes import eventually

JSON = {"Content-Type": "application/json"}


def error(answer: tuple[int, bytes]) -> int:
    """The status of an error, whose body must be in E2B's shape."""
    status, data = answer
    body = json.loads(data)
    assert body["code"] == status and isinstance(body["message"], str)
    return status


def test_requests_need_a_key_that_is_known(nothing: Running) -> None:
    for key in ("", "e2b_" + "0" * 40, "\xe9"):
        assert error(nothing.ask("GET", "/v2/sandboxes", headers={"X-API-KEY": key})) == 401
    assert nothing.ask("GET", "/health", headers={"X-API-KEY": ""})[0] == 200
    other = new_key(nothing.directory)
    assert nothing.ask("GET", "/v2/sandboxes", headers={"X-API-KEY": other})[0] == 200
    with opened(nothing.directory / FILE) as store:
        assert store.revoke(store.all_keys()[-1].id)
    assert error(nothing.ask("GET", "/v2/sandboxes", headers={"X-API-KEY": other})) == 401


def test_a_key_is_kept_as_a_hash_alone(nothing: Running) -> None:
    whole = b"".join(one.read_bytes() for one in nothing.directory.glob(f"{FILE}*"))
    assert nothing.key.encode() not in whole and whole
    assert (nothing.directory / FILE).stat().st_mode & 0o077 == 0


def test_a_key_neither_sees_nor_names_another_s_sandboxes(nothing: Running) -> None:
    mine = Box.create(nothing)
    other = {"X-API-KEY": new_key(nothing.directory), **JSON}
    assert nothing.ask("GET", "/v2/sandboxes", headers=other) == (200, b"[]")
    snapshot = json.loads(nothing.ask("POST", f"/sandboxes/{mine.id}/snapshots", {}, JSON)[1])
    calls = [("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"),
             ("POST", "/connect"), ("POST", "/fork"), ("POST", "/refreshes"),
             ("GET", "/logs"), ("GET", "/metrics"), ("POST", "/snapshots")]  # fmt: skip
    for method, path in calls:
        body: object = {} if method == "POST" else None
        answer = nothing.ask(method, f"/sandboxes/{mine.id}{path}", body, other)
        assert error(answer) == 404, path
        unknown = nothing.ask(method, f"/sandboxes/inothing{path}", body, other)
        assert answer[1].replace(mine.id.encode(), b"inothing") == unknown[1]
    body = {"templateID": snapshot["snapshotID"]}
    assert error(nothing.ask("POST", "/v2/sandboxes", body, other)) == 404
    assert error(nothing.ask("DELETE", f"/templates/{snapshot['snapshotID']}", None, other)) == 404
    assert nothing.ask("GET", f"/sandboxes/{mine.id}")[0] == 200


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
        ("POST", "/v2/sandboxes", b" " * (2 << 20), 413),
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
def test_what_does_not_fit_is_answered_in_e2b_s_shape(
    shared_nothing: Running, method: str, path: str, body: bytes | None, status: int
) -> None:
    assert error(shared_nothing.ask(method, path, body, JSON)) == status


def test_lists_are_filtered_and_paged(nothing: Running) -> None:
    made = [Box.create(nothing, metadata={"n": str(n), "odd": str(n % 2)}).id for n in range(7)]
    ids, token = [], ""
    while True:
        path = f"/v2/sandboxes?limit=2&order=asc&metadata=odd%3D1{token}"
        request = urllib.request.Request(nothing.address + path, headers={"X-API-KEY": nothing.key})
        with urllib.request.urlopen(request) as answer:
            ids += [one["sandboxID"] for one in json.load(answer)]
            following = answer.headers.get("x-next-token")
        if not following:
            break
        token = f"&nextToken={following}"
    assert ids == made[1::2]


def test_a_key_has_no_more_than_its_limits(nothing: Running) -> None:
    """A thousand creations at once: as many as the limit are made, and none fails otherwise."""
    statuses: Counter[int] = Counter()

    def some() -> None:
        for _ in range(25):
            body = {"templateID": "base", "timeout": 60}
            statuses[nothing.ask("POST", "/v2/sandboxes", body, JSON)[0]] += 1

    threads = [threading.Thread(target=some) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {201: 30, 429: 970}
    assert len(json.loads(nothing.ask("GET", "/sandboxes")[1])) == 30


def test_a_key_asks_no_more_often_than_it_may(nothing: Running) -> None:
    slow = {"X-API-KEY": new_key(nothing.directory, Limits(rate=0.001, burst=3))}
    statuses = [nothing.ask("GET", "/sandboxes", headers=slow)[0] for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]


def test_a_sandbox_ends_when_its_time_is_up(served: Running) -> None:
    box = Box.create(served)
    assert box.run("echo here") == ("here\n", 0)
    box.end_soon()
    eventually(lambda: served.ask("GET", f"/sandboxes/{box.id}")[0] == 404, 120)
    status, body = box.rpc("process.Process/List", {})
    assert (status, body["message"]) == (502, "sandbox was not found")


def test_what_a_restored_sandbox_writes_reaches_its_disk(served: Running) -> None:
    """QEMU since 10.0 aborts at the first write, unless it was told that its disks are its own."""
    box = Box.create(served)
    try:
        assert box.run("echo one > file.txt; sync; cat file.txt") == ("one\n", 0)
        assert served.ask("POST", f"/sandboxes/{box.id}/pause", {}, JSON)[0] == 204
        assert served.ask("POST", f"/v2/sandboxes/{box.id}/connect", {}, JSON)[0] == 201
        assert box.run("echo two >> file.txt; sync; cat file.txt") == ("one\ntwo\n", 0)
    finally:
        box.kill()


def test_one_that_pauses_when_its_time_is_up_resumes_with_traffic(served: Running) -> None:
    box = Box.create(served, autoPause=True, autoResume={"enabled": True})
    box.run("echo kept > kept.txt")
    box.end_soon()
    eventually(lambda: box.state() == "paused", 120)
    assert box.run("cat kept.txt") == ("kept\n", 0)
    assert box.kill() == 204


def test_two_connects_at_once_resume_one_sandbox(served: Running) -> None:
    box = Box.create(served)
    assert served.ask("POST", f"/sandboxes/{box.id}/pause", {}, JSON)[0] == 204
    assert served.ask("POST", f"/sandboxes/{box.id}/pause", {}, JSON)[0] == 409
    served.wait_for_pool("base", 3)
    served.wait_for_pool("code-interpreter-v1", 3)
    before = _vmms(served)
    statuses: list[int] = []
    path = f"/v2/sandboxes/{box.id}/connect"
    threads = [
        threading.Thread(
            target=lambda: statuses.append(served.ask("POST", path, {"timeout": 60}, JSON)[0])
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


def _vmms(served: Running) -> int:
    assert served.process
    children = psutil.Process(served.process.pid).children()
    return sum("qemu" in one.name() for one in children)


def test_one_who_leaves_while_his_sandbox_is_made_leaves_none(served: Running) -> None:
    """More creations than the pool has: those that wait are over when who asked for them goes."""
    many = 40
    left = 'coppice_requests_total{route="create_v2",status="499"}'
    before, left_before = _ids(served), served.metric(left)
    head = f"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-KEY: {served.key}\r\n"
    body = b'{"templateID": "base", "timeout": 600}'
    whole = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    lines = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(many)]
    for line in lines:
        line.sendall(whole)
    waiting = "coppice_creations_waiting"
    eventually(lambda: served.metric(waiting) > many / 2, 120)
    for line in lines:
        line.close()
    eventually(lambda: served.metric(waiting) == 0, 120)
    made = _ids(served) - before  # those that were ready before: they are there to be killed
    eventually(lambda: len(made) + served.metric(left) - left_before == many, 120)
    assert len(made) < many
    for id in made:
        assert served.ask("DELETE", f"/sandboxes/{id}")[0] == 204


def _ids(served: Running) -> set[str]:
    return {one["sandboxID"] for one in json.loads(served.ask("GET", "/v2/sandboxes")[1])}


def test_one_killed_as_it_resumes_is_gone(served: Running) -> None:
    box = Box.create(served)
    assert served.ask("POST", f"/sandboxes/{box.id}/pause", {}, JSON)[0] == 204
    statuses: list[int] = []
    path = f"/v2/sandboxes/{box.id}/connect"
    resuming = threading.Thread(
        target=lambda: statuses.append(served.ask("POST", path, {}, JSON)[0])
    )
    resuming.start()
    assert box.kill() == 204  # before, while or after: tests/gateway/test_meanwhile.py holds it
    resuming.join()
    assert statuses in ([201], [404])
    assert error(served.ask("GET", f"/sandboxes/{box.id}")) == 404
    assert error(served.ask("POST", path, {}, JSON)) == 404


def test_a_thousand_creations_against_a_small_pool(served: Running) -> None:
    """As many as the key may have are made, from the pool and behind it; all others are told why,
    and the pool is full again afterwards."""
    most = 14
    busy = dataclasses.replace(served, key=new_key(served.directory, Limits(sandboxes=most)))
    statuses: Counter[int] = Counter()

    def some() -> None:
        for _ in range(25):
            body = {"templateID": "base", "timeout": 600}
            statuses[busy.ask("POST", "/v2/sandboxes", body, JSON)[0]] += 1

    threads = [threading.Thread(target=some) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {201: most, 429: 1000 - most}
    made = _ids(busy)
    assert len(made) == most
    for id in made:
        assert busy.ask("DELETE", f"/sandboxes/{id}")[0] == 204
    served.wait_for_pool("base", 3)


def test_a_key_has_no_more_memory_than_its_limit(nothing: Running) -> None:
    small = {"X-API-KEY": new_key(nothing.directory, Limits(memory_mib=2)), **JSON}
    answers = [
        nothing.ask("POST", "/v2/sandboxes", {"templateID": "base"}, small) for _ in range(3)
    ]
    assert [status for status, _ in answers] == [201, 201, 429]
    assert b"2 MiB of memory" in answers[2][1]


def test_what_happens_is_a_line_of_json_each(run: Run, tmp_path: Path) -> None:
    with gateway(run, "--substrate", "noop", "--verbose") as one:
        Box.create(one).kill()
        one.ask("GET", "/nothing")
        lines = (one.directory / "log").read_text().splitlines()
    said = [json.loads(line) for line in lines if line.startswith("{")]
    routes = {(line["route"], line["status"]) for line in said if line["what"] == "request"}
    assert {("create_v2", 201), ("kill", 204), ("unknown", 404)} <= routes
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line["utc"]) for line in said)
    assert not any(one.key in line for line in lines)  # no secret is written down


def test_metrics_are_there_for_prometheus(served: Running) -> None:
    text = served.ask("GET", "/metrics")[1].decode()
    assert 'coppice_requests_total{route="create_v2",status="201"}' in text
    assert 'coppice_request_seconds_bucket{route="create_v2",le="+Inf"}' in text
    value = r"[0-9.e+-]+"
    label = r'[a-z_]+="[^"\\]*"'
    for line in text.splitlines():
        kind = re.fullmatch(r"# TYPE [a-z_]+ (counter|gauge|histogram)", line)
        assert kind or re.fullmatch(rf"[a-z_]+({{{label}(,{label})*}})? {value}", line), line


def test_over_tls_its_certificate_holds_for_every_sandbox_s_name(run: Run) -> None:
    with gateway(run, "--substrate", "noop", "--tls") as one:
        made = json.loads(one.ask("POST", "/v2/sandboxes", {"templateID": "base"}, JSON)[1])
        assert made["domain"] == f"sandboxes.localhost:{one.port}"
        assert one.certificate and one.certificate.with_name("key.pem").stat().st_mode & 0o77 == 0
        believing = ssl.create_default_context(cafile=one.certificate)

        def ask(name: str) -> bytes:
            with (
                socket.create_connection(("127.0.0.1", one.port)) as line,
                believing.wrap_socket(line, server_hostname=name) as secured,
            ):
                head = f"GET /health HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
                secured.sendall(head.encode())
                return secured.makefile("rb").read()

        assert ask(f"49999-{made['sandboxID']}.sandboxes.localhost").endswith(b"OK")
        assert b"204" in ask(f"49983-{made['sandboxID']}.sandboxes.localhost")
        with pytest.raises(ssl.SSLCertVerificationError):
            ask("elsewhere.test")


def test_a_second_gateway_does_not_take_the_same_state(nothing: Running) -> None:
    done = subprocess.run(nothing.words, env=dict(nothing.environment), capture_output=True)
    assert done.returncode == 64 and b"a gateway runs with the state" in done.stderr


def test_older_sdks_name_a_sandbox_in_calls_of_the_api_and_then_by_its_token(
    nothing: Running,
) -> None:
    box = Box.create(nothing)
    named = {"E2b-Sandbox-Id": box.id, "E2b-Sandbox-Port": "49983", **JSON}
    path = f"/sandboxes/{box.id}/connect"
    assert nothing.ask("POST", path, {"timeout": 60}, named)[0] == 200
    other = {**named, "X-API-KEY": new_key(nothing.directory)}
    assert error(nothing.ask("POST", path, {"timeout": 60}, other)) == 404

    def health(token: str) -> int:
        address = f"{nothing.address}/health"
        asked = urllib.request.Request(address, headers={"X-Access-Token": token})
        with urllib.request.urlopen(asked) as answer:
            status: int = answer.status
            return status

    assert health(box.token) == 204  # envd's
    assert health(box.token[:-1]) == 200  # the gateway's own
    assert box.kill() == 204
    assert health(box.token) == 200
