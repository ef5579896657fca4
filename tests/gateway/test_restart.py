"""A gateway that is killed: what ran is adopted, what is gone is told, and nothing else is left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.gateway.gateway_process import Running, gateway
from harness.host.leftovers import reclaim
from harness.host.run import Run
from tests.gateway.client import Box
from tests.host.processes import eventually

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runtime directory of its own, so that what a gateway leaves can be counted."""
    return tmp_path_factory.mktemp("restart") / "runtime"


@pytest.fixture(scope="module")
def shared(run: Run, possible: None, runtime: Path) -> Iterator[Running]:
    with gateway(run, "--pool", "2", "--only", "base", "--no-network", runtime=runtime) as one:
        yield one
    assert vmms(runtime) == []


@pytest.fixture
def own(shared: Running) -> Running:
    """A gateway that runs and has no sandboxes."""
    assert shared.process
    if shared.process.poll() is not None:
        shared.begin()
    for id in listed(shared):
        assert shared.ask("DELETE", f"/sandboxes/{id}")[0] == 204
    shared.wait_for_pool("base", 2)
    return shared


def vmms(runtime: Path) -> list[int]:
    """The VMMs, keepers and whatever else of the runs under a directory."""
    mark = f"COPPICE_RUN={runtime}/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def listed(served: Running) -> set[str]:
    return {one["sandboxID"] for one in json.loads(served.ask("GET", "/v2/sandboxes")[1])}


def test_killed_under_load_it_comes_back_with_what_it_had(own: Running, runtime: Path) -> None:
    kept = Box.create(own)
    kept.run("echo before > file.txt")
    paused = Box.create(own)
    paused.run("echo asleep > file.txt")
    assert own.ask("POST", f"/sandboxes/{paused.id}/pause", {}, JSON)[0] == 204
    waits = "while ! test -e go; do sleep 0.1; done"
    with kept.start(f"{waits}; echo after >> file.txt") as lasting:
        next(lasting.messages())
    stop = threading.Event()
    said: list[str] = []  # sandboxes that a caller was told of, and not of their end

    def load() -> None:
        while not stop.is_set():
            with contextlib.suppress(Exception):
                box = Box.create(own)
                said.append(box.id)
                box.run("echo x")
                if len(said) % 2:
                    said.remove(box.id)  # before: of its end the caller may not hear any more
                    box.kill()

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(said) >= 3, 120)
    own.kill()
    stop.set()
    for thread in threads:
        thread.join()
    own.begin()

    ids = listed(own)
    assert {kept.id, paused.id} <= ids
    unknown = {one for one in said if one not in ids}
    assert not unknown, "a sandbox that a caller was told of is gone"
    # Each that is listed runs, and each that runs is listed.
    records = [json.loads(own.ask("GET", f"/sandboxes/{one}")[1]) for one in ids]
    running = [one for one in records if one["state"] == "running"]
    for one in running:
        box = Box(own, one["sandboxID"], one["envdAccessToken"], "")
        assert box.run("echo alive") == ("alive\n", 0)
    own.wait_for_pool("base", 2)

    def there() -> tuple[int, int]:
        """VMMs and their directories; what was being made at the end goes."""
        qemus = [pid for pid in vmms(runtime) if is_vmm(pid)]
        return len(qemus), len(list(runtime.glob("*/sandbox-*")))

    many = len(running) + 2 + 1  # the pool, and what the pool is forked from
    eventually(lambda: there() == (many, many))

    kept.run("touch go")
    eventually(lambda: kept.run("cat file.txt")[0] == "before\nafter\n", 120)
    assert own.ask("POST", f"/v2/sandboxes/{paused.id}/connect", {}, JSON)[0] == 201
    assert paused.run("cat file.txt") == ("asleep\n", 0)


def is_vmm(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"\0-name\0coppice-" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def test_after_the_host_has_lost_its_power(own: Running, runtime: Path) -> None:
    """Every process and the runtime directory are gone: what was paused resumes, what ran is
    gone."""
    lost, paused = Box.create(own), Box.create(own)
    paused.run("echo durable > file.txt")
    assert own.ask("POST", f"/sandboxes/{paused.id}/pause", {}, JSON)[0] == 204
    own.kill()
    for pid in vmms(runtime):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(runtime)
    own.begin()
    assert listed(own) == {paused.id}
    assert own.ask("GET", f"/sandboxes/{lost.id}")[0] == 404
    assert own.ask("POST", f"/v2/sandboxes/{paused.id}/connect", {}, JSON)[0] == 201
    assert paused.run("cat file.txt") == ("durable\n", 0)


def test_stopped_in_order_it_holds_what_runs(own: Running, runtime: Path) -> None:
    box = Box.create(own)
    box.run("echo held > file.txt")
    own.end()
    assert vmms(runtime) == []
    assert [one.name for one in runtime.iterdir()] == ["leases"]
    own.begin()
    assert box.run("cat file.txt") == ("held\n", 0)


def test_clean_removes_all_of_one_that_does_not_come_back(own: Running, runtime: Path) -> None:
    Box.create(own)
    own.kill()
    assert vmms(runtime)
    reclaim(runtime)
    assert vmms(runtime) == []
    assert [one.name for one in runtime.iterdir()] == ["leases"]
    assert not any((runtime / "leases").iterdir())
    own.begin()
    assert listed(own) == set()
