"""What the client makes of a service that is slow, busy, broken or lying: typed errors, and a list
of what it has made."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from harness.endpoints.client import ApiClient, opened
from harness.errors import (
    CoppiceError,
    EndpointFailed,
    EndpointUnreachable,
    KeyRefused,
    NotOffered,
    Refused,
    TemplateMissing,
)
from harness.gateway import certificate
from tests.endpoints.services import endpoint
from tests.stand_ins.server import Standing, standing_in

ARGV = ("/bin/sh", "-c", "echo $((6*7))")
T = TypeVar("T")


def using(service: Standing, work: Callable[[ApiClient], Awaitable[T]], **settings: Any) -> T:
    async def whole() -> T:
        async with opened(endpoint(service, **settings), run_id="a-run") as client:
            return await work(client)

    return asyncio.run(whole())


async def life(client: ApiClient) -> str:
    """Create a sandbox, run a command, delete it: the command's output."""
    created = await client.create()
    try:
        return (await client.run(created, ARGV)).stdout
    finally:
        await client.delete(created.id)


QUICKER: Mapping[str, Mapping[str, Any]] = {
    "trickling": {"trickle_s": 0.0002},
    "slow": {"headers_s": 0.02, "body_s": 0.02, "command_s": 0.02},
    "cubesandbox": {"boot_s": (0.05, 0.1)},
}


@pytest.mark.parametrize(
    "names",
    [
        "honest",
        "slow",
        "pages",
        "jumping-clock",
        "cubesandbox",
        "leaky",
        "no-list",
        "trickling",
    ],
)
def test_an_odd_but_honest_service_works(names: str) -> None:
    with standing_in(names, **QUICKER.get(names, {})) as service:
        assert using(service, life) == "42\n"
        assert len(service.service.deleted) == 1
        assert len(service.alive) == (names == "leaky")


async def creation(client: ApiClient) -> str:
    return (await client.create()).id


Expected = type[CoppiceError]


@pytest.mark.parametrize(
    "names, error, text",
    [
        ("busy", Refused, "429"),
        ("busy-silent", Refused, "429"),
        ("unavailable", Refused, "503"),
        ("quota", Refused, "429"),
        ("half-way-header", EndpointFailed, "in the middle of the headers"),
        ("half-way-body", EndpointFailed, "in the middle of its answer"),
        ("answer-lost", EndpointFailed, "without an answer"),
        ("endless", EndpointFailed, "goes on"),
        ("endless-trailers", EndpointFailed, "goes on"),
        ("other-json", EndpointFailed, "another API"),
        ("not-json", EndpointFailed, "no JSON"),
    ],
)
def test_a_creation_that_fails_says_how(names: str, error: Expected, text: str) -> None:
    async def third(client: ApiClient) -> None:
        for _ in range(3 if names == "quota" else 1):
            await client.create()

    with standing_in(names) as service:
        with pytest.raises(error, match=text) as caught:
            using(service, third)
        assert type(caught.value) is error
        assert service.key not in str(caught.value)
        if error is Refused:
            assert isinstance(caught.value, Refused)
            assert caught.value.retry_after == (1.0 if names == "busy" else None)


@pytest.mark.parametrize("lost", ["half-way-header", "half-way-body", "answer-lost", "endless"])
def test_a_sandbox_whose_creation_was_not_answered_is_found_by_its_run(lost: str) -> None:
    async def look(client: ApiClient) -> list[str]:
        with pytest.raises(EndpointFailed):
            await client.create()
        return [one.id for one in await client.listed("a-run")]

    with standing_in(lost) as service:
        assert using(service, look) == service.alive != []


def test_each_page_of_a_list_is_read() -> None:
    async def five(client: ApiClient) -> set[str]:
        for _ in range(5):
            await client.create()
        return {one.id for one in await client.listed("a-run")}

    with standing_in("pages") as service:
        assert using(service, five) == set(service.alive)
        assert len(service.alive) == 5
        assert service.service.requests["list"] == 3 + 1  # the older list has one page


def test_a_sandbox_is_found_behind_those_of_other_users() -> None:
    async def look(client: ApiClient) -> list[str]:
        with pytest.raises(EndpointFailed):
            await client.create()
        return [one.id for one in await client.listed("a-run")]

    with standing_in("cubesandbox,answer-lost", cut_after=1, strangers=150) as service:
        # CubeSandbox refuses the newer route, and loses the answer to the second request.
        assert using(service, look) == service.service.made
        assert len(service.service.made) == 1


@pytest.mark.parametrize(
    "names, error, text",
    [
        ("lying", EndpointFailed, "said that it made"),
        ("half-way-stream", EndpointFailed, "in the middle of its answer"),
        ("endless-output", EndpointFailed, "goes on"),
    ],
)
def test_a_command_that_fails_says_how(names: str, error: Expected, text: str) -> None:
    with standing_in(names) as service, pytest.raises(error, match=text):
        using(service, life)


def test_cubesandbox_makes_sandboxes_by_the_older_route_and_boots_them_afterwards() -> None:
    async def twice(client: ApiClient) -> list[tuple[float, float]]:
        times = []
        for _ in range(2):
            created = await client.create()
            ran = await client.run(created, ARGV)
            times.append((created.headers - created.start, ran.end - created.start))
            await client.delete(created.id)
        return times

    with standing_in("cubesandbox", boot_s=(0.3, 0.4)) as service:
        for headers_s, usable_s in using(service, twice):
            assert usable_s >= 0.3 > headers_s
        # The newer route was tried once.
        assert service.service.requests["create"] == 3
        assert (len(service.service.made), service.alive) == (2, [])


def test_what_cannot_be_reached_or_used_is_one_sentence(tmp_path: Path) -> None:
    with standing_in() as service:
        with pytest.raises(KeyRefused, match="the key is not accepted"):
            using(service, creation, key="e2b_wrong_key_of_a_user")
        with pytest.raises(TemplateMissing, match="'absent' not found"):
            using(service, creation, template="absent")
        plain = service
    with pytest.raises(EndpointUnreachable, match="nothing listens"):
        using(plain, creation)
    files = certificate.create(tmp_path / "tls", "elsewhere.test", "elsewhere.test")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(files.chain, files.key)
    with standing_in(host="127.0.0.2", tls=tls) as service:
        with pytest.raises(EndpointUnreachable, match="certificate does not fit: IP address"):
            using(service, creation, ca_file=files.chain)
        with pytest.raises(EndpointUnreachable, match="certificate does not fit: self"):
            using(service, creation)
        assert using(service, life, verify=False) == "42\n"
    with standing_in(tls=tls) as service:
        assert using(service, life, ca_file=files.chain) == "42\n"


def test_an_operation_that_is_missing_is_not_offered() -> None:
    async def lists(client: ApiClient) -> object:
        return await client.listed()

    with standing_in("no-list") as service, pytest.raises(NotOffered, match="404"):
        using(service, lists)


def test_a_list_without_end_is_one_sentence() -> None:
    async def lists(client: ApiClient) -> object:
        return await client.listed()

    with standing_in("pages-without-end") as service:
        with pytest.raises(EndpointFailed, match="goes on after"):
            using(service, lists)
        assert service.service.requests["list"] < 1000


def test_a_sandbox_that_is_handed_out_twice_is_caught() -> None:
    async def two(client: ApiClient) -> None:
        await client.create()
        await client.create()

    with standing_in("lying-same") as service, pytest.raises(EndpointFailed, match="twice"):
        using(service, two)


def test_the_wrong_scheme_is_one_sentence(tmp_path: Path) -> None:
    files = certificate.create(tmp_path / "tls", "127.0.0.1", "elsewhere.test")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(files.chain, files.key)
    with standing_in() as plain, standing_in(tls=tls) as secret:
        swapped = {plain: "https" + plain.address[4:], secret: "http" + secret.address[5:]}
        with pytest.raises(EndpointUnreachable, match="it does not speak TLS"):
            using(dataclasses.replace(plain, address=swapped[plain]), creation)
        with pytest.raises(EndpointFailed, match="its address begins with https"):
            using(dataclasses.replace(secret, address=swapped[secret]), creation)
