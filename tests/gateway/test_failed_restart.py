"""A gateway that cannot start again, or cannot save at its end, leaves running what runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.gateway.gateway_process import GatewayProcess, running_gateway
from harness.host.run import Run
from harness.host.session import open_run
from tests.gateway.client import Box
from tests.gateway.conftest import own_runtime
from tests.gateway.test_full_place import small

OPTIONS = ("--substrate", "oci", "--pool", "1", "--only", "base")
INTERRUPTED = "tests.gateway.interrupted_start"


@pytest.fixture(scope="module")
def runtime() -> Iterator[Path]:
    with own_runtime() as directory:
        yield directory


@pytest.fixture(scope="module")
def own(run: Run, possible: None, runtime: Path) -> Iterator[GatewayProcess]:
    with running_gateway(run, *OPTIONS, runtime=runtime) as process:
        yield process


def busy(served: GatewayProcess) -> tuple[Box, str]:
    """A sandbox and the PID of a process that runs in it: it does not survive a pause."""
    box = Box.create(served)
    output, code = box.run("sleep 1000 > /dev/null 2>&1 & echo $!")
    assert code == 0
    return box, output.strip()


def runs_on(box: Box, pid: str) -> bool:
    return box.run(f"kill -0 {pid} && echo runs")[0] == "runs\n"


def failed(served: GatewayProcess, *more: str, module: str = "harness") -> tuple[int, str]:
    """A start with other options that fails: its exit code and message."""
    argv = [module if argument == "harness" else argument for argument in served.argv]
    done = subprocess.run(
        [*argv, *more],
        env=dict(served.environment),
        capture_output=True,
        text=True,
        timeout=120,
        encoding="utf-8",
    )
    assert done.stdout == "" and "Traceback" not in done.stderr, done
    return done.returncode, done.stderr


def test_no_failed_start_ends_what_a_killed_gateway_left_running(
    own: GatewayProcess, runtime: Path
) -> None:
    """What is refused before it begins, and by what, is tried in test_predecessor.py."""
    box, pid = busy(own)
    own.kill()
    code, error = failed(own, "--outside", "/nothing")
    assert code == 64 and "no outside network" in error
    code, error = failed(own, "--only", "nope")
    assert code == 64 and "there is no template 'nope'" in error
    assert failed(own, module=INTERRUPTED)[0] == 143
    with open_run(runtime):  # any other run, which removes what dead runs have left
        pass
    own.start()
    assert runs_on(box, pid)
    assert box.kill() == 204


def test_sandboxes_that_cannot_be_saved_at_the_end_run_on(
    own: GatewayProcess, runtime: Path
) -> None:
    box, pid = busy(own)
    process = own.process
    assert process
    with small(own.directory / "saved", 1) as full:
        (full / "filler").write_bytes(bytes(1 << 20))
        own.stop()
        assert process.returncode == 143
        log = own.log_tail()
        assert "a sandbox was not saved and left running" in log
        assert f"coppice gateway --state {own.directory} --substrate oci   (takes over" in log
        (full / "filler").unlink()
    with open_run(runtime):
        pass
    own.start()
    assert runs_on(box, pid)
    assert json.loads(own.request("GET", "/v2/sandboxes")[1])[0]["state"] == "running"


def test_a_saved_sandbox_with_a_network_waits_for_a_gateway_with_one(own: GatewayProcess) -> None:
    """Resumed without its interface, it would run on as if nothing were missing."""
    plain = own.argv
    own.argv = [*plain, "--no-network"]
    try:
        own.stop()
        own.start()
        assert "the sandbox has a network and this gateway has none" in own.log_tail()
        sandboxes = json.loads(own.request("GET", "/v2/sandboxes?state=paused")[1])
        assert len(sandboxes) == 1
    finally:
        own.stop()
        own.argv = plain
        own.start()
    (sandbox,) = json.loads(own.request("GET", "/v2/sandboxes")[1])
    assert sandbox["state"] == "running"
    assert own.request("DELETE", f"/sandboxes/{sandbox['sandboxID']}")[0] == 204
