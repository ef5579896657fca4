"""A gateway that is killed at any stage of a change loses no sandbox and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.gateway import stages
from harness.gateway.gateway_process import GatewayProcess, running_gateway
from harness.host.run import Run
from tests.gateway.client import Box
from tests.gateway.staged import killed_at
from tests.host.processes import eventually

JSON = {"Content-Type": "application/json"}
FILES_ONLY = {"memory": False}
PAUSE = (
    stages.SAVING_NOTED, stages.STOPPED, stages.WRITTEN, stages.SAVED, stages.PAUSE_NOTED,
    stages.ENDED,
)  # fmt: skip


@pytest.fixture(scope="module")
def containers(run: Run, possible: None) -> Iterator[GatewayProcess]:
    options = ("--substrate", "oci", "--pool", "1", "--only", "base", "--no-network")
    with running_gateway(run, *options, module="tests.gateway.staged") as process:
        process.wait_for_pool("base", 1)
        yield process


@pytest.fixture
def own(containers: GatewayProcess) -> Iterator[GatewayProcess]:
    """A gateway without sandboxes and snapshots."""
    yield containers
    for id in listed(containers):
        assert containers.request("DELETE", f"/sandboxes/{id}")[0] == 204
    for snapshot in json.loads(containers.request("GET", "/snapshots")[1]):
        path = f"/templates/{snapshot['snapshotID']}"
        assert containers.request("DELETE", path)[0] == 204
    eventually(lambda: saved(containers) == [], 60)


def listed(gateway: GatewayProcess) -> dict[str, str]:
    """The states of its sandboxes."""
    sandboxes = json.loads(gateway.request("GET", "/v2/sandboxes")[1])
    return {sandbox["sandboxID"]: sandbox["state"] for sandbox in sandboxes}


def saved(gateway: GatewayProcess) -> list[str]:
    return [entry.name for entry in (gateway.directory / "saved").iterdir()]


def alive(gateway: GatewayProcess) -> int:
    """The number of sandboxes that exist on the host, without those of the pool."""
    gateway.wait_for_pool("base", 1)
    run = next(Path(gateway.environment["COPPICE_RUN"]).parent.glob("*/oci")) if False else None
    del run
    return len(containers_of(gateway)) - 1


def containers_of(gateway: GatewayProcess) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "comm").read_text() == "envd\n":
                found.append(entry.name)
    return found


def post(gateway: GatewayProcess, path: str, body: object) -> tuple[int, bytes]:
    return gateway.request("POST", path, body, JSON)


@pytest.mark.parametrize("stage", PAUSE)
def test_during_a_pause(own: GatewayProcess, stage: str) -> None:
    box = Box.create(own)
    box.run("echo kept > file.txt")
    with killed_at(own, stage, lambda: post(own, f"/sandboxes/{box.id}/pause", FILES_ONLY)):
        pass
    state = "paused" if stage in (stages.PAUSE_NOTED, stages.ENDED) else "running"
    assert listed(own) == {box.id: state}
    eventually(lambda: len(saved(own)) == (state == "paused"), 60)
    assert post(own, f"/v2/sandboxes/{box.id}/connect", {})[0] in (200, 201)
    assert box.run("cat file.txt") == ("kept\n", 0)
