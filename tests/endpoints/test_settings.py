"""What users write to name a service: options, coppice.toml, keys; a fault is one sentence."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.endpoints.options import asked_for, chosen, cost
from harness.endpoints.settings import Endpoint, Limits
from harness.errors import UsageError
from tests.host.processes import coppice

KEY = "e2b_5e9c3bd0a7f14d6e8b21"
LIMITED = {"most-sandboxes": "5", "most-per-second": "2.5"}
URL = {"endpoint": "https://api.example.org", **LIMITED}
ENTRY = '[endpoints.cube]\naddress = "https://cube.example.org/api"\n'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("E2B_API_KEY", KEY)
    return tmp_path


def named(options: Mapping[str, str]) -> Endpoint:
    found = chosen(options)
    assert found
    return found


def test_an_address_alone_is_enough() -> None:
    found = named(URL)
    assert (found.name, found.system, found.address) == (
        "api.example.org", "endpoint", "https://api.example.org"
    )  # fmt: skip
    assert found.limits == Limits(5, 2.5)
    assert found.key == KEY and KEY not in repr(found)


def test_without_an_endpoint_there_is_none() -> None:
    assert chosen({"n": "3"}) is None
    with pytest.raises(UsageError, match="--template is of a service"):
        chosen({"template": "base"})


def test_a_file_names_services_and_options_replace_what_it_says(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBE_KEY", "k" * 20)
    monkeypatch.setenv("TEAM_SECRET", "hidden-value")
    (here / "coppice.toml").write_text(
        ENTRY
        + 'system = "cubesandbox"\napi-key-env = "CUBE_KEY"\ntemplate = "tpl-1"\n'
        + 'sandbox-url = "http://proxy.example.org:8080/"\ndomain = "cube.example.org"\n'
        + 'ca-file = "ca.pem"\nverify = false\nprice = "0.05 USD"\ntags = ["eu", "x"]\n'
        + 'machine = "4 nodes"\nmost-sandboxes = 60\nmost-per-second = 10\n'
        + 'headers = { X-Team = "a", X-Other = { variable = "TEAM_SECRET" } }\n',
        encoding="utf-8",
    )
    found = named({"endpoint": "cube", "template": "tpl-2"})
    assert found.template == "tpl-2" and found.system == "cubesandbox"
    assert found.address == "https://cube.example.org/api"
    assert found.sandbox_url == "http://proxy.example.org:8080"
    assert found.headers == {"X-Team": "a", "X-Other": "hidden-value"}
    assert found.ca_file is not None and found.ca_file.name == "ca.pem"
    assert found.limits == Limits(60, 10.0) and found.verify is False
    assert "hidden-value" not in repr(found) and "kkkk" not in repr(found)
    assert found.redacted(f"say {'k' * 20} and hidden-value") == "say (left out) and (left out)"
    assert cost(found, 7200) == "0.10 USD"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("endpoints = [", "is not TOML"),
        (b"\xff\xfe", "is not text in UTF-8"),
        ("[endpoint.cube]\n", "no table 'endpoint'"),
        ("endpoints = 3", "endpoints must be a table"),
        ("[endpoints]\ncube = 3", "must be a table"),
        ("[endpoints.cube]\nsystem = 'x'", "has no address"),
        (ENTRY + "sytem = 'x'", "no key 'sytem'"),
        (ENTRY + "system = 3", "system must be a text"),
        (ENTRY + "most-sandboxes = 1.5", "must be a whole number"),
        (ENTRY + "most-sandboxes = true", "must be a whole number"),
        (ENTRY + "most-per-second = 0", "must be a positive number"),
        (ENTRY + "verify = 'no'", "verify must be true or false"),
        (ENTRY + "tags = 'eu'", "tags must be a list"),
        (ENTRY + "headers = 3", "headers must be a table"),
        (ENTRY + 'headers = { "a b" = "x" }', "no header that can be added"),
        (ENTRY + 'headers = { Host = "x" }', "no header that can be added"),
        (ENTRY + 'headers = { X-Team = "a\\nb" }', "must be a text in ASCII"),
        (ENTRY + 'headers = { Authorization = "x" }', "would hold a secret in clear"),
        (ENTRY + "headers = { X-T = { variable = 'MISSING_ONE' } }", "MISSING_ONE.*is not set"),
        (ENTRY + 'key = "abc"', "key would hold a secret in clear"),
        (ENTRY + 'api_key = "abc"', "api_key would hold a secret in clear"),
        (ENTRY + f'system = "{KEY}"', "holds what looks like a key"),
        (ENTRY + 'api-key-env = "no variable"', "is no name of a variable"),
        (ENTRY + 'api-key-env = "COPPICE_KEY_OF_MINE"', "would be on the record"),
        (ENTRY + 'api-key-env = "MISSING_ONE"', "MISSING_ONE.*is not set"),
        (ENTRY + 'headers = { X-Auth = "hunter2hunter2" }', "would hold a secret in clear"),
        (ENTRY + 'headers = { X-Passwd = "a" }', "would hold a secret in clear"),
        (ENTRY + 'headers = { X-A = "sk-abcdefghijklmnopqrstu" }', "looks like a key"),
        (ENTRY + 'headers = { X-A = "sk-proj-abcdefghijklmnopqrstu" }', "looks like a key"),
        (ENTRY + 'headers = { X-A = "\\u0073k-abcdefghijklmnopqrstu" }', "X-A holds what looks"),
        (ENTRY + 'headers = { X-A = "Basic dXNlcjpwYXNzdw==" }', "looks like a key"),
        (ENTRY + 'headers = { X-A = "a", x-a = "b" }', "the header x-a is there twice"),
        (ENTRY + 'headers = { Expect = "100-continue" }', "no header that can be added"),
        (ENTRY + 'headers = { TE = "trailers" }', "no header that can be added"),
        (ENTRY + 'headers = { upgrade = "h2c" }', "no header that can be added"),
        (ENTRY + 'headers = { Accept-Encoding = "gzip" }', "no header that can be added"),
        (ENTRY + 'headers = { User-Agent = "x" }', "no header that can be added"),
        pytest.param(ENTRY + "#" * (1 << 20), "is longer than 1024 KiB", id="long"),
        ('[endpoints."a b"]\naddress = "https://x.org"', "a name has letters"),
        ('[endpoints.cube]\naddress = "ftp://x.org"', "neither http nor https"),
        ("[endpoints.other]\naddress = 'https://x.org'", "names no endpoint 'cube'"),
    ],
)
def test_a_file_that_is_wrong_is_one_sentence(here: Path, text: str | bytes, why: str) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    (here / "coppice.toml").write_bytes(content)
    with pytest.raises(UsageError, match=why) as caught:
        chosen({"endpoint": "cube", **LIMITED})
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"# Basic authentication\r\n"])
def test_a_file_of_another_system_is_read(here: Path, before: bytes) -> None:
    text = ENTRY + 'headers = { X-Author = "a" }\n'
    (here / "coppice.toml").write_bytes(before + text.encode())
    assert named({"endpoint": "cube", **LIMITED}).headers == {"X-Author": "a"}


def test_a_file_that_might_not_end_is_not_read(here: Path) -> None:
    os.mkfifo(here / "coppice.toml")
    with pytest.raises(UsageError, match="is no regular file"):
        chosen({"endpoint": "cube", **LIMITED})
    with pytest.raises(UsageError, match="is no regular file"):
        chosen({"endpoint": "cube", "config": "/dev/zero", **LIMITED})
    with pytest.raises(UsageError, match="are no regular file"):
        named({**URL, "ca-file": "coppice.toml"}).tls_context()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"endpoint": "cube"}, "no address, and there is no coppice.toml"),
        ({"endpoint": "api.example.org"}, "--endpoint https://api.example.org"),
        ({"endpoint": "cube", "config": "absent.toml"}, "there is no such file"),
        ({"endpoint": f"https://user:{KEY}@api.example.org"}, "would be in every record"),
        ({"endpoint": "https://api.example.org?x=1"}, "has a query"),
        ({"endpoint": "ssh://api.example.org"}, "neither http nor https"),
        ({"endpoint": "https://"}, "is not a URL"),
        ({"api-key-env": KEY + "!"}, "must not be the key itself"),
        ({"api-key-env": KEY}, "must not be the key itself"),
        ({"api-key-env": "ABSENT_VARIABLE"}, "ABSENT_VARIABLE, which holds the key, is not set"),
        ({"system": "Cube Sandbox"}, "a system's name has small letters"),
        ({"domain": "a b"}, "this is no domain"),
        ({"domain": "example.org:70000"}, "this is no domain"),
        ({"domain": "example.org:0"}, "this is no domain"),
        ({"endpoint": "https://api.example.org:70000"}, "--endpoint"),
        ({"price": "much"}, "a price is a number and a currency"),
        ({"most-sandboxes": "0"}, "most-sandboxes"),
        ({"most-per-second": "-1"}, "not a positive number"),
        ({"sandbox-url": "10.0.0.1"}, "is not a URL"),
    ],
)
def test_options_that_are_wrong_are_one_sentence(given: Mapping[str, str], why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        chosen({**URL, **given})
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("value", ["", "abc\n", "a key with ü"])
def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E2B_API_KEY", value)
    with pytest.raises(UsageError, match="E2B_API_KEY, which holds the key") as caught:
        chosen(URL)
    assert not value or value.strip() not in str(caught.value)


def test_limits_are_asked_for_before_anything_is_made() -> None:
    with pytest.raises(UsageError, match="most-sandboxes and most-per-second") as caught:
        chosen({"endpoint": "https://api.example.org"})
    assert "--most-sandboxes 10 --most-per-second 5" in str(caught.value)
    assert asked_for({"endpoint": "https://api.example.org"}) == {}, "there is no terminal here"
    assert chosen({"endpoint": "https://api.example.org"}, limited=False)


def test_the_command_refuses_a_service_without_limits_and_without_its_key() -> None:
    done = coppice("run", "e2b-latency", "--endpoint", "http://127.0.0.1:9", E2B_API_KEY=KEY)
    assert (done.returncode, done.stdout) == (64, "")
    assert "how much may be made at http://127.0.0.1:9 is not said" in done.stderr
    assert "Traceback" not in done.stderr
