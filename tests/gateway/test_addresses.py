"""The addresses that the gateway gives to sandboxes and their files, and filters in addresses."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
from urllib.parse import quote, urlencode

import pytest

from harness.gateway.gateway_process import GatewayProcess
from tests.gateway.client import Box

JSON = {"Content-Type": "application/json"}
ODD = "a b@c:d+e%f%20=g&hé#?;,'\"\\$~ü\n"
"""A value that survives only where it is quoted exactly as often as it is unquoted."""
ODD_NAME = "x y@z:+%25=&é"


def plain(
    gateway: GatewayProcess, method: str, path: str, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """A request without the key or the name of a sandbox; its status and message."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    data = b"" if method == "POST" else None
    connection.request(method, path, data, headers or {})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, json.loads(body)["message"] if body else ""


def signed(box: Box, path: str, operation: str, expiration: str = "", user: str = "") -> str:
    """A signed URL as the SDK makes it."""
    parts = [path, operation, user, box.token, *([expiration] if expiration else [])]
    digest = base64.b64encode(hashlib.sha256(":".join(parts).encode()).digest()).decode()
    query = {"path": path, "signature": "v1_" + digest.rstrip("=")}
    query |= {"signature_expiration": expiration} if expiration else {}
    query |= {"username": user} if user else {}
    return f"/files?{urlencode(query, quote_via=quote)}"


def test_a_signed_url_needs_no_headers(nothing: GatewayProcess) -> None:
    box, other = Box.create(nothing), Box.create(nothing)
    reached = (400, "sandboxes of the substrate noop have no files (ENOSYS)")
    for owner in (box, other):
        for path in ("/home/user/a", f"/home/user/{ODD}"):
            assert plain(nothing, "GET", signed(owner, path, "read")) == reached
            assert plain(nothing, "POST", signed(owner, path, "write", user="root")) == reached
            later = signed(owner, path, "read", "99999999999")
            assert plain(nothing, "GET", later) == reached
    assert plain(nothing, "POST", signed(box, "/a", "read"))[0] == 404
    assert plain(nothing, "GET", signed(box, "/a", "read").replace("v1_", "v1_x"))[0] == 404
    assert plain(nothing, "GET", signed(box, "/a", "read", "1")) == (
        401,
        "the signature has expired",
    )
    named = {"E2b-Sandbox-Id": other.id, "E2b-Sandbox-Port": "49983"}
    assert plain(nothing, "GET", signed(box, "/a", "read"), named)[0] == 401
    box.kill()
    assert plain(nothing, "GET", signed(box, "/a", "read"))[0] == 404


def test_a_sandbox_has_a_host_name_of_this_host(nothing: GatewayProcess) -> None:
    for path in ("/sandboxes", "/v2/sandboxes"):
        created = json.loads(nothing.request("POST", path, {"templateID": "base"}, JSON)[1])
        assert created["domain"] == f"sandboxes.localhost:{nothing.port}"
        id = created["sandboxID"]
        name = f"49983-{id}.{created['domain']}"
        assert plain(nothing, "GET", "/health", {"Host": name})[0] == 204
        detail = json.loads(nothing.request("GET", f"/sandboxes/{id}")[1])
        connected = nothing.request("POST", f"{path}/{id}/connect", {}, JSON)
        assert created["domain"] == detail["domain"] == json.loads(connected[1])["domain"]


def test_for_other_hosts_no_name_leads_elsewhere() -> None:
    pytest.importorskip("uvicorn")
    from harness.gateway.server import _default_domain

    for host in ("0.0.0.0", "::", "192.0.2.1", "gateway.test"):
        assert _default_domain(host, 3000).endswith(".invalid")
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert _default_domain(host, 3000) == "sandboxes.localhost:3000"


@pytest.mark.parametrize("path", ["/sandboxes", "/v2/sandboxes"])
def test_metadata_filters_find_any_value(nothing: GatewayProcess, path: str) -> None:
    """The SDKs quote names and values before they make the query string of them."""
    odd, ordinary = Box.create(nothing, metadata={ODD_NAME: ODD, "b": "1"}), Box.create(nothing)

    def found(**wanted: str) -> list[str]:
        pairs = urlencode({quote(name): quote(value) for name, value in wanted.items()})
        listed = nothing.request("GET", f"{path}?{urlencode({'metadata': pairs})}")[1]
        return [sandbox["sandboxID"] for sandbox in json.loads(listed)]

    assert found(**{ODD_NAME: ODD}) == found(**{ODD_NAME: ODD, "b": "1"}) == [odd.id]
    for character in ODD:
        assert not found(**{ODD_NAME: ODD.replace(character, "")})
    assert not found(**{ODD_NAME: ODD, "b": "2"})
    assert set(found()) == {odd.id, ordinary.id}
    once = urlencode({"metadata": "b=1"})  # a client that quotes once
    assert odd.id in nothing.request("GET", f"{path}?{once}")[1].decode()
