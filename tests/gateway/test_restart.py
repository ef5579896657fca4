"""Restarts and crashes of a gateway: running sandboxes are adopted, and nothing else is left."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.gateway.gateway_process import GatewayProcess, running_gateway
from harness.gateway.stages import PAUSE_NOTED, SAVED
from harness.host.leftovers import reclaim
from harness.host.run import Run
from tests.gateway.client import Box
from tests.gateway.staged import killed_at
from tests.host.processes import eventually

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A separate runtime directory, so that what a gateway leaves can be counted."""
    return tmp_path_factory.mktemp("restart") / "runtime"


@pytest.fixture(scope="module")
def shared(run: Run, possible: None, runtime: Path, accelerator: str) -> Iterator[GatewayProcess]:
    with running_gateway(
        run, "--pool", "2", "--only", "base", "--no-network", runtime=runtime,
        program=("tests.gateway.staged", "gateway"),
    ) as process:  # fmt: skip
        yield process
    assert processes_of(runtime) == []


@pytest.fixture
def own(shared: GatewayProcess) -> GatewayProcess:
    """A running gateway without sandboxes."""
    assert shared.process
    if shared.process.poll() is not None:
        shared.start()
    for id in listed(shared):
        assert shared.request("DELETE", f"/sandboxes/{id}")[0] == 204
    shared.wait_for_pool("base", 2)
    return shared


def processes_of(runtime: Path) -> list[int]:
    """The VMMs, fd holders and other processes of the runs under a directory."""
    variable = f"COPPICE_RUN={runtime}/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and variable in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def listed(served: GatewayProcess) -> set[str]:
    return {
        sandbox["sandboxID"] for sandbox in json.loads(served.request("GET", "/v2/sandboxes")[1])
    }


def test_after_a_crash_under_load_sandboxes_are_adopted(own: GatewayProcess, runtime: Path) -> None:
    kept = Box.create(own)
    kept.run("echo before > file.txt")
    paused = Box.create(own)
    paused.run("echo asleep > file.txt")
    assert own.request("POST", f"/sandboxes/{paused.id}/pause", {}, JSON)[0] == 204
    waits = "while ! test -e go; do sleep 0.1; done"
    with kept.start(f"{waits}; echo after >> file.txt") as lasting:
        next(lasting.messages())
    stop = threading.Event()
    confirmed: list[str] = []  # created, and not killed, as far as the callers know

    def load() -> None:
        while not stop.is_set():
            with contextlib.suppress(Exception):
                box = Box.create(own)
                confirmed.append(box.id)
                box.run("echo x")
                if len(confirmed) % 2:
                    confirmed.remove(box.id)  # first: the response to the kill may be lost
                    box.kill()

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(confirmed) >= 3, 120)
    own.kill()
    stop.set()
    for thread in threads:
        thread.join()
    own.start()

    ids = listed(own)
    assert {kept.id, paused.id} <= ids
    lost = {id for id in confirmed if id not in ids}
    assert not lost, "a confirmed sandbox is gone"
    # Listed sandboxes run, and running sandboxes are listed.
    records = [json.loads(own.request("GET", f"/sandboxes/{id}")[1]) for id in ids]
    running = [record for record in records if record["state"] == "running"]
    for record in running:
        box = Box(own, record["sandboxID"], record["envdAccessToken"], "")
        assert box.run("echo alive") == ("alive\n", 0)
    own.wait_for_pool("base", 2)

    def counts() -> tuple[int, int]:
        """The numbers of VMMs and of their directories."""
        qemus = [pid for pid in processes_of(runtime) if is_vmm(pid)]
        assert all(log_is_bounded(pid) for pid in qemus)
        return len(qemus), len(list(runtime.glob("*/sandbox-*")))

    expected = len(running) + 2 + 1  # the pool and its zygote
    eventually(lambda: counts() == (expected, expected))

    kept.run("touch go")
    eventually(lambda: kept.run("cat file.txt")[0] == "before\nafter\n", 120)
    assert own.request("POST", f"/v2/sandboxes/{paused.id}/connect", {}, JSON)[0] == 201
    assert paused.run("cat file.txt") == ("asleep\n", 0)


def log_is_bounded(pid: int) -> bool:
    """Whether what a VMM writes to stderr cannot grow."""
    with contextlib.suppress(FileNotFoundError), Path(f"/proc/{pid}/fd/2").open("rb") as log:
        return bool(fcntl.fcntl(log, fcntl.F_GET_SEALS) & fcntl.F_SEAL_GROW)
    return True  # it has ended


def is_vmm(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"\0-name\0coppice-" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@pytest.mark.parametrize("stage", [SAVED, PAUSE_NOTED])
def test_a_pause_during_which_the_gateway_is_killed_loses_nothing(
    own: GatewayProcess, stage: str
) -> None:
    """Every stage of every change is tried in test_killed.py, with containers."""
    box = Box.create(own)
    box.run("echo kept > file.txt")
    pause = f"/sandboxes/{box.id}/pause"
    killed_at(own, stage, lambda: own.request("POST", pause, {}, JSON))
    assert box.state() == ("paused" if stage == PAUSE_NOTED else "running")
    assert own.request("POST", f"/v2/sandboxes/{box.id}/connect", {}, JSON)[0] in (200, 201)
    assert box.run("cat file.txt") == ("kept\n", 0)
    assert box.kill() == 204


def test_after_a_power_failure_paused_sandboxes_resume(own: GatewayProcess, runtime: Path) -> None:
    """Without all processes and the runtime directory, paused sandboxes resume; others are lost."""
    lost, paused = Box.create(own), Box.create(own)
    paused.run("echo durable > file.txt")
    assert own.request("POST", f"/sandboxes/{paused.id}/pause", {}, JSON)[0] == 204
    own.kill()
    for pid in processes_of(runtime):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(runtime)
    own.start()
    assert listed(own) == {paused.id}
    assert own.request("GET", f"/sandboxes/{lost.id}")[0] == 404
    assert own.request("POST", f"/v2/sandboxes/{paused.id}/connect", {}, JSON)[0] == 201
    assert paused.run("cat file.txt") == ("durable\n", 0)


def test_a_stopped_gateway_pauses_and_resumes_its_sandboxes(
    own: GatewayProcess, runtime: Path
) -> None:
    box = Box.create(own)
    box.run("echo held > file.txt")
    own.stop()
    assert processes_of(runtime) == []
    assert [entry.name for entry in runtime.iterdir()] == ["leases"]
    own.start()
    assert box.run("cat file.txt") == ("held\n", 0)


def test_clean_removes_everything_of_a_gateway_that_is_not_restarted(
    own: GatewayProcess, runtime: Path
) -> None:
    Box.create(own)
    own.kill()
    assert processes_of(runtime)
    reclaim(runtime, waiting=True)
    assert processes_of(runtime) == []
    assert [entry.name for entry in runtime.iterdir()] == ["leases"]
    assert not any((runtime / "leases").iterdir())
    own.start()
    assert listed(own) == set()
