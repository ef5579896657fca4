"""A gateway that is killed at any stage of a change loses no sandbox and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.gateway import stages
from harness.gateway.gateway_process import GatewayProcess, running_gateway
from harness.host.run import Run
from tests.gateway.client import Box
from tests.gateway.staged import killed_at
from tests.host.processes import eventually

JSON = {"Content-Type": "application/json"}
QEMU = "qemu"
PAUSE = (stages.STOPPED, stages.SAVED, stages.PAUSE_NOTED, stages.ENDED)
OF_PAUSE_TOO = (stages.SAVING_NOTED, stages.WRITTEN)
PAUSED = (stages.PAUSE_NOTED, stages.ENDED)
SLOW = pytest.mark.skipif(
    "COPPICE_SLOW" not in os.environ, reason="starts many gateways; set COPPICE_SLOW"
)


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest,
    run: Run,
    possible: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[GatewayProcess]:
    # On a path that the users of containers can reach.
    runtime = Path("/run") / f"coppice-{tmp_path_factory.mktemp('killed').name}-{request.param}"
    options = ("--substrate", request.param, "--pool", "1", "--only", "base", "--no-network")
    try:
        with running_gateway(
            run, *options, runtime=runtime, program=("tests.gateway.staged", "gateway")
        ) as process:
            yield process
    finally:
        (runtime / "leases").rmdir()
        runtime.rmdir()  # fails unless it is empty


@pytest.fixture
def own(running: GatewayProcess) -> Iterator[GatewayProcess]:
    """A gateway without sandboxes; nothing may be left once those of the test are gone."""
    running.wait_for_pool("base", 1)
    yield running
    for id in listed(running):
        assert running.request("DELETE", f"/sandboxes/{id}")[0] == 204
    for snapshot in json.loads(running.request("GET", "/snapshots")[1]):
        assert running.request("DELETE", f"/templates/{snapshot['snapshotID']}")[0] == 204
    eventually(lambda: saved(running) == [], 60)
    assert_alive(running, 0)


def stages_of(
    *stages: str, slow: tuple[str, ...] = (), qemu: tuple[str, ...] = ()
) -> pytest.MarkDecorator:
    """Stages at which containers' gateways are killed; with COPPICE_SLOW also at those of `slow`,
    and microVMs' at those of `qemu`."""
    cases = [pytest.param("oci", stage) for stage in stages]
    cases += [pytest.param("oci", stage, marks=SLOW) for stage in slow]
    cases += [pytest.param(QEMU, stage, marks=SLOW) for stage in qemu]
    return pytest.mark.parametrize(("running", "stage"), cases, indirect=["running"])


def memory(gateway: GatewayProcess) -> dict[str, bool]:
    """What its sandboxes are saved with: the memory of containers cannot be saved."""
    return {"memory": QEMU in gateway.argv}


def listed(gateway: GatewayProcess) -> dict[str, str]:
    """The states of its sandboxes."""
    sandboxes = json.loads(gateway.request("GET", "/v2/sandboxes")[1])
    return {sandbox["sandboxID"]: sandbox["state"] for sandbox in sandboxes}


def saved(gateway: GatewayProcess) -> list[str]:
    return [entry.name for entry in (gateway.directory / "saved").iterdir()]


def assert_alive(gateway: GatewayProcess, count: int) -> None:
    """On the host there are this many sandboxes, and those of the pool."""
    runtime = Path(gateway.environment["COPPICE_RUNTIME"])
    gateway.wait_for_pool("base", 1)
    if QEMU in gateway.argv:  # with the one that the pool's are forks of, under emulation
        eventually(lambda: len(list(runtime.glob("*/sandbox-*"))) - count in (1, 2), 60)
    else:
        eventually(lambda: len(list(runtime.glob("*/oci/*"))) == count + 1, 60)


def post(gateway: GatewayProcess, path: str, body: object) -> tuple[int, bytes]:
    return gateway.request("POST", path, body, JSON)


def pause(box: Box) -> tuple[int, bytes]:
    return post(box.served, f"/sandboxes/{box.id}/pause", memory(box.served))


def connect(box: Box) -> tuple[int, bytes]:
    return post(box.served, f"/v2/sandboxes/{box.id}/connect", {})


def snapshot(box: Box) -> tuple[int, bytes]:
    return post(box.served, f"/sandboxes/{box.id}/snapshots", memory(box.served))


def create_and_write(gateway: GatewayProcess, **body: Any) -> Box:
    box = Box.create(gateway, **body)
    assert box.run("echo kept > file.txt; cat file.txt") == ("kept\n", 0)
    return box


def assert_kept(box: Box, state: str) -> None:
    """It is listed in this state, alone, and runs with its file once it is connected to."""
    gateway = box.served
    assert listed(gateway) == {box.id: state}
    assert_alive(gateway, int(state == "running"))
    assert connect(box)[0] == (200 if state == "running" else 201)
    assert box.run("cat file.txt") == ("kept\n", 0)


@stages_of(*PAUSE, slow=OF_PAUSE_TOO, qemu=(stages.ARMED, *PAUSE, *OF_PAUSE_TOO))
def test_during_a_pause(own: GatewayProcess, stage: str) -> None:
    box = create_and_write(own)
    killed_at(own, stage, partial(pause, box))
    assert len(saved(own)) == (stage in PAUSED), "only what the store refers to"
    assert_kept(box, "paused" if stage in PAUSED else "running")


@stages_of(stages.SAVED, slow=(stages.PAUSE_NOTED,))
def test_during_the_pause_of_a_sandbox_whose_time_is_up(own: GatewayProcess, stage: str) -> None:
    box = create_and_write(own, autoPause=True, autoPauseMemory=False)
    killed_at(own, stage, partial(box.end_in, 0))
    eventually(lambda: listed(own) == {box.id: "paused"}, 60)
    assert_kept(box, "paused")


@stages_of(stages.PAUSE_NOTED, slow=(stages.STOPPED, stages.SAVED))
def test_while_it_is_stopped(own: GatewayProcess, stage: str) -> None:
    box = create_and_write(own)
    assert own.process
    killed_at(own, stage, partial(own.process.send_signal, signal.SIGTERM))
    assert_kept(box, "running")  # what was paused for the stop has been resumed


@stages_of(stages.SAVED, slow=(stages.STOPPED, stages.WRITTEN), qemu=(stages.SAVED,))
def test_a_sandbox_that_is_gone_too_is_paused_if_its_save_is_complete(
    own: GatewayProcess, stage: str
) -> None:
    """As when the host loses its power, or the gateway's whole control group is killed."""
    box = create_and_write(own)

    def end_all() -> None:
        variable = f"COPPICE_RUN={own.environment['COPPICE_RUNTIME']}/".encode()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and variable in (entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)

    killed_at(own, stage, partial(pause, box), end_all)
    if stage == stages.SAVED:
        assert_kept(box, "paused")
    else:
        assert listed(own) == {}


@stages_of(stages.RESTORED, stages.RESUME_NOTED, qemu=(stages.RESTORED, stages.RESUME_NOTED))
def test_during_a_resume(own: GatewayProcess, stage: str) -> None:
    box = create_and_write(own)
    assert pause(box)[0] == 204
    killed_at(own, stage, partial(connect, box))
    assert_kept(box, "running" if stage == stages.RESUME_NOTED else "paused")


@stages_of(stages.SNAPSHOT_NOTED, slow=(stages.STOPPED, stages.SAVED), qemu=(stages.SAVED,))
def test_during_a_snapshot(own: GatewayProcess, stage: str) -> None:
    box = create_and_write(own)
    killed_at(own, stage, partial(snapshot, box))
    assert len(saved(own)) == (stage == stages.SNAPSHOT_NOTED)
    assert_kept(box, "running")
    for taken in json.loads(own.request("GET", "/snapshots")[1]):
        assert Box.create(own, taken["snapshotID"]).run("cat file.txt") == ("kept\n", 0)


@stages_of(slow=(stages.SAVED,))
def test_during_a_snapshot_of_a_paused_sandbox(own: GatewayProcess, stage: str) -> None:
    box = create_and_write(own)
    assert pause(box)[0] == 204
    killed_at(own, stage, partial(snapshot, box))
    assert len(saved(own)) == 1
    assert_kept(box, "paused")


@stages_of(qemu=(stages.SAVED, stages.RESTORED))
def test_during_a_fork(own: GatewayProcess, stage: str) -> None:
    box = create_and_write(own)
    killed_at(own, stage, lambda: post(own, f"/sandboxes/{box.id}/fork", {"count": 1}))
    assert_kept(box, "running")


@stages_of(stages.CREATED, slow=(stages.TAKEN,), qemu=(stages.CREATED,))
def test_during_a_creation(own: GatewayProcess, stage: str) -> None:
    killed_at(own, stage, lambda: Box.create(own))
    states = listed(own)
    assert list(states.values()) == (["running"] if stage == stages.CREATED else [])
    assert_alive(own, len(states))
    for id in states:
        record = json.loads(own.request("GET", f"/sandboxes/{id}")[1])
        assert Box(own, id, record["envdAccessToken"], "").run("echo alive") == ("alive\n", 0)


@stages_of(slow=(stages.TAKEN,))
def test_during_a_creation_from_a_snapshot(own: GatewayProcess, stage: str) -> None:
    box = create_and_write(own)
    taken = json.loads(snapshot(box)[1])["snapshotID"]
    killed_at(own, stage, lambda: Box.create(own, taken))
    assert_kept(box, "running")
    assert Box.create(own, taken).run("cat file.txt") == ("kept\n", 0)


@stages_of(slow=(stages.REMOVAL_NOTED,))
@pytest.mark.parametrize("state", ["running", "paused"])
def test_during_a_removal(own: GatewayProcess, stage: str, state: str) -> None:
    box = create_and_write(own)
    if state == "paused":
        assert pause(box)[0] == 204
    killed_at(own, stage, box.kill)
    assert listed(own) == {} and saved(own) == []
    assert_alive(own, 0)
