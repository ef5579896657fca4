"""What a request asks for is done or refused by name; nothing is dropped in silence."""

from __future__ import annotations

import json
import struct
import tracemalloc
from typing import Any

import pytest

from harness.gateway.data_plane.messages import MESSAGES
from harness.gateway.gateway_process import GatewayProcess
from harness.gateway.request_schema import InvalidRequest, RequestSchema, fields, parse_json
from tests.gateway.client import ENVD, INTERPRETER, Box, envelope
from tests.host.processes import eventually

JSON = {"Content-Type": "application/json"}
CREATE = "/v2/sandboxes"


@pytest.fixture
def box(nothing: GatewayProcess) -> Box:
    return Box.create(nothing)


def message(response: tuple[int, bytes], status: int = 400) -> str:
    assert response[0] == status, response
    text: str = json.loads(response[1])["message"]
    return text


NOT_OFFERED: list[tuple[dict[str, Any], str]] = [
    ({"network": {"rules": {"a.test": [{"transform": {}}]}}}, "network.rules"),
    ({"network": {"egressProxy": {"address": "a.test:1"}}}, "network.egressProxy"),
    ({"network": {"maskRequestHost": "a.test"}}, "network.maskRequestHost"),
    ({"network": {"dnsServers": ["192.0.2.1"]}}, "network.dnsServers"),
    ({"network": {"httpsPorts": [3000]}}, "network.httpsPorts"),
    ({"volumeMounts": [{"name": "v", "path": "/v"}]}, "volumeMounts"),
    ({"mcp": {"github": {}}}, "mcp"),
    ({"iam": {"tokens": {"a": {"audience": "b"}}}}, "iam"),
    ({"distributionScope": "global"}, "distributionScope"),
    ({"lifecycle": {"onTimeOut": "pause"}}, "lifecycle.onTimeOut"),
    ({"lifecycle": {"onTimeout": "sleep"}}, "lifecycle.onTimeout"),
    ({"autoResume": {"enable": True}}, "autoResume.enable"),
    ({"metdata": {"a": "b"}}, "metdata"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"env_vars": {}}, "env_vars"),
    ({"network": {"allow_out": []}}, "network.allow_out"),
    ({"autoPause": True, "lifecycle": {"onTimeout": "kill"}}, "lifecycle.onTimeout"),
    (
        {"autoResume": {"enabled": False}, "lifecycle": {"autoResume": True}},
        "lifecycle.autoResume",
    ),
]


@pytest.mark.parametrize(("asked", "field"), NOT_OFFERED, ids=[name for _, name in NOT_OFFERED])
def test_options_that_are_not_offered_are_refused_by_name(
    nothing: GatewayProcess, asked: dict[str, Any], field: str
) -> None:
    for path in ("/sandboxes", CREATE):
        body = {"templateID": "base", **asked}
        assert field in message(nothing.request("POST", path, body, JSON))
    assert nothing.request("GET", CREATE) == (200, b"[]")


def test_a_misspelt_field_names_the_one_that_is_meant(nothing: GatewayProcess) -> None:
    body = {"templateID": "base", "metdata": {}}
    assert "is metadata meant?" in message(nothing.request("POST", CREATE, body, JSON))


@pytest.mark.parametrize("name", ["", "A=B", "=", "A\0"])
def test_variables_that_no_process_can_have_are_refused(nothing: GatewayProcess, name: str) -> None:
    body = {"templateID": "base", "envVars": {name: "x"}}
    assert "variable" in message(nothing.request("POST", CREATE, body, JSON))


def test_values_without_an_effect_are_accepted(nothing: GatewayProcess) -> None:
    """SDKs send some of them without being asked."""
    variants: tuple[dict[str, Any], ...] = (
        {"secure": True, "allow_internet_access": True, "autoPause": False},
        {"mcp": None, "iam": None, "volumeMounts": None, "network": None, "lifecycle": None},
        {"mcp": {}, "iam": {}, "volumeMounts": [], "network": {}, "lifecycle": {}},
        {"timeout": None, "metadata": None, "envVars": None, "secure": None, "autoResume": None},
        {"network": {"rules": {}, "egressProxy": None, "dnsServers": [], "httpsPorts": None}},
        {"network": {"allowOut": None, "denyOut": None, "maskRequestHost": None}},
        {"autoPauseMemory": True, "autoResume": {"enabled": False}},
    )
    for nothing_asked in variants:
        body = {"templateID": "base", **nothing_asked}
        assert nothing.request("POST", CREATE, body, JSON)[0] == 201, nothing_asked


@pytest.mark.parametrize(
    ("method", "path", "asked", "field"),
    [
        ("PUT", "/network", {"rules": {"a.test": []}}, "rules"),
        ("PUT", "/network", {"allowOuts": []}, "allowOuts"),
        ("POST", "/pause", {"requireHealthyGuests": True}, "requireHealthyGuests"),
        ("POST", "/connect", {"timeout": 60, "autoPause": True}, "autoPause"),
        ("POST", "/resume", {"onResume": "reboot"}, "onResume"),
        ("POST", "/timeout", {"timeout": 60, "unit": "s"}, "unit"),
        ("POST", "/refreshes", {"timeout": 60}, "timeout"),
        ("POST", "/fork", {"count": 1, "metadata": {}}, "metadata"),
        ("POST", "/snapshots", {"names": ["a"]}, "names"),
        ("DELETE", "", {"force": True}, "force"),
    ],
)
def test_every_operation_is_closed(
    box: Box, method: str, path: str, asked: dict[str, Any], field: str
) -> None:
    response = box.served.request(method, f"/sandboxes/{box.id}{path}", asked, JSON)
    assert repr(field) in message(response) or f"{field} is not offered" in message(response)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v2/sandboxes?states=running", "states"),
        ("/v2/sandboxes?order=up", "order"),
        ("/v2/sandboxes?limit=1&limit=2", "limit"),
        ("/sandboxes?state=paused", "state"),
        ("/snapshots?sandboxId=x", "sandboxId"),
        ("/v2/sandboxes/{id}/logs?direction=up", "direction"),
        ("/v2/sandboxes/{id}/logs?level=fatal", "level"),
        ("/sandboxes/{id}/logs?since=1", "since"),
        ("/sandboxes/{id}/metrics?from=1", "from"),
        ("/sandboxes/{id}?verbose=1", "verbose"),
        ("/health?deep=1", "deep"),
    ],
)
def test_query_parameters_are_closed(box: Box, path: str, name: str) -> None:
    assert name in message(box.served.request("GET", path.format(id=box.id)))


def test_snapshots_are_listed_by_name(box: Box) -> None:
    served, made = box.served, []
    for name in ("one", "two"):
        body = {"name": name}
        response = served.request("POST", f"/sandboxes/{box.id}/snapshots", body, JSON)
        made.append(json.loads(response[1])["snapshotID"])
    for query, expected in (("one", made[:1]), (made[1], made[1:]), ("three", [])):
        listed = json.loads(served.request("GET", f"/snapshots?name={query}")[1])
        assert [snapshot["snapshotID"] for snapshot in listed] == expected


def test_log_entries_are_filtered(box: Box) -> None:
    path = f"/v2/sandboxes/{box.id}/logs"
    for query, count in (("level=info", 1), ("level=error", 0), ("search=created", 1),
                         ("search=nothing", 0)):  # fmt: skip
        assert len(json.loads(box.served.request("GET", f"{path}?{query}")[1])["logs"]) == count


def test_a_lifecycle_pauses_when_the_time_is_up_and_resumes(nothing: GatewayProcess) -> None:
    box = Box.create(nothing, lifecycle={"onTimeout": "pause", "autoResume": True})
    detail = json.loads(nothing.request("GET", f"/sandboxes/{box.id}")[1])
    assert detail["lifecycle"] == {"onTimeout": "pause", "autoResume": True}
    box.end_in(1)
    eventually(lambda: box.state() == "paused", 60)
    assert box.rpc("process.Process/List", {})[0] == 200
    assert box.state() == "running"


def test_a_resume_can_change_what_happens_at_the_time_limit(box: Box) -> None:
    path = f"/sandboxes/{box.id}"
    assert box.served.request("POST", f"{path}/pause", {}, JSON)[0] == 204
    reboot = box.served.request("POST", f"{path}/connect", {"memory": False}, JSON)
    assert "memory" in message(reboot)
    assert box.served.request("POST", f"{path}/resume", {"autoPause": True}, JSON)[0] == 201
    assert json.loads(box.served.request("GET", path)[1])["lifecycle"]["onTimeout"] == "pause"


def test_an_idempotency_key_creates_one_sandbox(nothing: GatewayProcess) -> None:
    headers = {**JSON, "Idempotency-Key": "a-key-1"}
    body = {"templateID": "base", "metadata": {"a": "b"}}
    ids = {
        json.loads(nothing.request("POST", CREATE, body, headers)[1])["sandboxID"] for _ in range(3)
    }
    assert len(ids) == 1
    other = {**body, "timeout": 7}
    assert "Idempotency-Key" in message(nothing.request("POST", CREATE, other, headers), 409)
    for invalid in ("UPPER", "a b", "a" * 256):
        invalid_headers = {**JSON, "Idempotency-Key": invalid}
        response = nothing.request("POST", CREATE, body, invalid_headers)
        assert "Idempotency-Key" in message(response)
    response = nothing.request("POST", f"/sandboxes/{ids.pop()}/fork", {}, headers)
    assert "Idempotency-Key" in message(response)
    assert len(json.loads(nothing.request("GET", CREATE)[1])) == 1


def test_a_pause_can_require_a_healthy_guest(box: Box) -> None:
    body = {"requireHealthyGuest": True}
    path = f"/sandboxes/{box.id}/pause"
    assert box.served.request("POST", path, body, JSON)[0] == 204


@pytest.mark.parametrize("method", sorted(MESSAGES))
def test_messages_of_envd_are_closed(box: Box, method: str) -> None:
    asked = {"unheardOf": 1}
    if method.endswith(("/Start", "/Connect", "/WatchDir", "/StreamInput")):
        with box.begin(envelope(asked), method) as stream:
            error = stream.error()
    else:
        status, error = box.rpc(method, asked)
        assert status == 400
    assert error["code"] == "invalid_argument" and "'unheardOf'" in error["message"]


def test_options_of_envd_that_are_not_offered_are_refused(box: Box) -> None:
    for asked in ({"path": "/", "includeEntry": True}, {"path": "/", "allowNetworkMounts": True}):
        status, error = box.rpc("filesystem.Filesystem/CreateWatcher", asked)
        assert status == 400 and "is not offered" in error["message"]
    process = {"process": {"cmd": "/bin/true", "env": {}}}
    with box.begin(envelope(process)) as stream:
        assert "'process.env'" in stream.error()["message"]
    nested = struct.pack(">BI", 0, 200_000) + b"[" * 100_000 + b"]" * 100_000
    with box.begin(nested) as stream:
        assert stream.error()["code"] == "invalid_argument"


@pytest.mark.parametrize(
    ("method", "path", "asked", "field"),
    [
        ("POST", "/execute", {"code": "1", "timeout": 1}, "timeout"),
        ("POST", "/execute", {"code": "1", "env_vars": {"A": 1}}, "env_vars"),
        ("POST", "/execute", {"context_id": "x"}, "code"),
        ("POST", "/execute?stream=1", {"code": "1"}, "stream"),
        ("POST", "/contexts", {"name": "x"}, "name"),
        ("POST", "/contexts/default/restart", {"hard": True}, "hard"),
    ],
)
def test_requests_to_the_interpreter_are_closed(
    box: Box, method: str, path: str, asked: dict[str, Any], field: str
) -> None:
    response = box.served.request(method, path, asked, box.headers(INTERPRETER, **JSON))
    assert field in message(response)


def test_requests_for_files_are_closed(box: Box) -> None:
    kind = {"Content-Type": "application/octet-stream"}
    for query, name in (("path=/x&user=root", "user"), ("path=/x&path=/y", "path")):
        for method in ("GET", "POST"):
            data = b"" if method == "POST" else None
            headers = box.headers(ENVD, **kind)
            response = box.served.request(method, f"/files?{query}", data, headers)
            assert name in message(response)
    form = box.headers(ENVD, **{"Content-Type": "multipart/form-data; boundary=x"})
    part = (
        '--x\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n%s\r\n\r\n\r\n--x--\r\n'
    )
    end = "\r\n--x--\r\n"
    for field, more, expected in (
        ("other", "", "'other'"), ("file", "X: y", "no files"),
        ("file", "X: " + "y" * 20_000, "header size"),
    ):  # fmt: skip
        response = box.served.request("POST", "/files", (part % (field, more) + end).encode(), form)
        assert expected in message(response)
    headers = box.headers(ENVD, **kind, **{"X-Metadata-A": "b"})
    assert "metadata" in message(box.served.request("POST", "/files?path=/x", b"", headers))


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"templateID": "base", "metadata": {"a": "\\ud800"}}',
        b'{"templateID": "base", "timeout": NaN}',
        b'{"templateID": "base", "timeout": Infinity}',
        b'{"templateID": "base", "timeout": ' + b"1" * 5000 + b"}",
        b'{"templateID": "base", "timeout": 1e999}',
        b'{"templateID": "base", "metadata": {"a": "\xff"}}',
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
    ],
)
def test_json_that_is_none_is_refused(nothing: GatewayProcess, data: bytes) -> None:
    assert message(nothing.request("POST", CREATE, data, JSON))


def test_json_with_many_values_is_refused_before_it_takes_memory() -> None:
    many = b"[" + b"[]," * 200_000 + b"1]"
    tracemalloc.start()
    with pytest.raises(InvalidRequest, match="values"):
        parse_json(many)
    assert tracemalloc.get_traced_memory()[1] < 4 * len(many)
    tracemalloc.stop()
    with pytest.raises(InvalidRequest, match="values"):
        parse_json(b'{"a":{' + b'"":0,' * 200_000 + b'"b":0}}')
    text = '[1, {"a": "b"}],' * 40_000 + '\\"'
    assert parse_json(json.dumps({"code": text}).encode()) == {"code": text}


def test_a_deep_value_is_refused() -> None:
    schema = RequestSchema(fields(a={"type": "object"}))
    schema.check({"a": {"b": 1}})
    with pytest.raises(InvalidRequest):
        schema.check(parse_json(b'{"b":' * 900 + b"1" + b"}" * 900))
