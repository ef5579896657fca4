"""What is malformed on the wire is refused: names, numbers, queries and texts."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from harness.gateway.control_plane.call import _encode_token
from harness.gateway.digits import whole_number
from harness.gateway.gateway_process import GatewayProcess
from tests.gateway.client import ENVD, INTERPRETER, Box, envelope

JSON = {"Content-Type": "application/json"}
CREATE = "/v2/sandboxes"
NO_NUMBERS = ("+49999", "-1", "1_0", "49999.0", "0xC34F", "1e3", "4 9", "x", "²", "1" * 19)


@pytest.fixture
def box(nothing: GatewayProcess) -> Box:
    return Box.create(nothing)


def message(response: tuple[int, bytes], status: int = 400) -> str:
    assert response[0] == status, response
    text: str = json.loads(response[1])["message"]
    return text


@pytest.mark.parametrize("text", [*NO_NUMBERS, "", " 1", "1\n", "٤٩", "¹", "Ⅷ", "१"])
def test_only_digits_are_numbers(text: str) -> None:
    assert whole_number(text) is None
    assert whole_number("0049999") == 49999


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'{"templateID": "base", "timeout": 60, "timeout": 90}', "timeout"),
        (b'{"templateID": "base", "templateID": "base"}', "templateID"),
        (b'{"templateID": "base", "metadata": {"a": "1", "b": "2", "\\u0061": "3"}}', "a"),
        (b'{"templateID": "base", "network": {"allowOut": [], "allowOut": []}}', "allowOut"),
    ],
)
def test_a_field_that_is_repeated_is_refused_by_name(
    nothing: GatewayProcess, data: bytes, name: str
) -> None:
    assert f"{name!r} is repeated" in message(nothing.request("POST", CREATE, data, JSON))
    assert nothing.request("GET", CREATE) == (200, b"[]")


def test_repeated_fields_are_refused_by_the_services_in_a_sandbox(box: Box) -> None:
    data = b'{"code": "1", "code": "2"}'
    response = box.served.request("POST", "/execute", data, box.headers(INTERPRETER, **JSON))
    assert "'code' is repeated" in message(response)
    data = b'{"path": "/", "depth": 1, "depth": 2}'
    path = "/filesystem.Filesystem/ListDir"
    response = box.served.request("POST", path, data, box.headers(ENVD, **JSON))
    assert "'depth' is repeated" in message(response)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_bodies_are_utf8(nothing: GatewayProcess, encoding: str) -> None:
    data = '{"templateID": "base"}'.encode(encoding)
    assert message(nothing.request("POST", CREATE, data, JSON))


@pytest.mark.parametrize("host", ["49999-{}.SandBoxes.Test", "49999-{}.sandboxes.test:3000"])
def test_host_names_are_the_same_in_capitals(box: Box, host: str) -> None:
    named = {"Host": host.format(box.id.upper()), "X-Access-Token": box.token, **JSON}
    status, data = box.served.request("POST", "/execute", {"code": "1+1"}, named)
    assert status == 200 and b'"text": "2"' in data


@pytest.mark.parametrize("number", [*NO_NUMBERS, "", "0", "65536", "99999"])
def test_a_port_is_a_number_from_1_to_65535(box: Box, number: str) -> None:
    headers = {"E2b-Sandbox-Id": box.id, "X-Access-Token": box.token}
    named = {**headers, "E2b-Sandbox-Port": number}
    assert "E2b-Sandbox-Port" in message(box.served.request("GET", "/health", None, named))


def test_a_port_is_named_once(box: Box) -> None:
    assert "E2b-Sandbox-Port" in message(
        box.served.request("GET", "/health", None, {"E2b-Sandbox-Id": box.id})
    )
    hosts = {"Host": f"65536-{box.id}.sandboxes.test"}
    assert "host name" in message(box.served.request("GET", "/", None, hosts))


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_numbers_in_headers_and_queries_are_digits(box: Box, number: str) -> None:
    for header in ("Connect-Timeout-Ms", "Keepalive-Ping-Interval"):
        process = {"process": {"cmd": "/bin/echo", "args": ["x"]}}
        with box.begin(envelope(process), **{header: number}) as stream:
            if stream.response.status == 200:
                assert header.lower() in stream.error()["message"]
            else:
                assert header.lower() in json.loads(stream.response.read())["message"]
    path = f"{CREATE}?limit={quote(number)}"
    assert "limit" in message(box.served.request("GET", path))


@pytest.mark.parametrize("at", ["nan", "1_0", " 1.0", "1", "inf", "٤"])
def test_the_tokens_of_pages_are_those_that_were_given(nothing: GatewayProcess, at: str) -> None:
    def page(token: str) -> tuple[int, bytes]:
        return nothing.request("GET", f"{CREATE}?nextToken={quote(token)}")

    class Written(float):
        def __repr__(self) -> str:
            return at

    assert page(_encode_token((1.0, "x")))[0] == 200
    assert "nextToken" in message(page(_encode_token((Written(1.0), "x"))))


@pytest.mark.parametrize(
    ("path", "port"),
    [("/metrics", 0), ("/health", 0), ("/health", ENVD), ("/envs", ENVD), ("/health", INTERPRETER)],
)
@pytest.mark.parametrize("query", ["x=1", "x", "=", "%zz", "%ff"])
def test_unknown_and_malformed_queries_are_refused(
    box: Box, path: str, port: int, query: str
) -> None:
    headers = box.headers(port) if port else {}
    assert box.served.request("GET", path, None, headers)[0] in (200, 204)
    assert message(box.served.request("GET", f"{path}?{query}", None, headers))


@pytest.mark.parametrize(
    "filter", ["a", "a=1&", "&a=1", "a=1&&b=2", "a=%zz", "a=%", "a=%FF", "a=1&a=2", "a=1&%61=2"]
)
def test_malformed_metadata_filters_are_refused(nothing: GatewayProcess, filter: str) -> None:
    for path in ("/sandboxes", CREATE):
        assert "metadata" in message(nothing.request("GET", f"{path}?metadata={quote(filter)}"))
    for query in ("metadata=%zz", "metadata=%ff", "limit=%", "metadata=a%3D1&metadata=b%3D1"):
        assert message(nothing.request("GET", f"{CREATE}?{query}"))
