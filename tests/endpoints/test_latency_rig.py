"""`coppice run e2b-latency --endpoint`: a service that is known by its address is measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from harness.host.run import Run
from harness.host.session import open_run
from harness.measure.record import RunRecord, find, load
from tests.host.processes import ROOT, coppice, eventually
from tests.stand_ins.elsewhere import FAR, elsewhere, gateway_elsewhere
from tests.stand_ins.server import Standing, standing_in

LIMITS = ("--most-sandboxes", "4", "--most-per-second", "200", "--n", "1", "--template", "base")


@pytest.fixture
def own(tmp_path: Path) -> Mapping[str, str]:
    """An environment without programs, for the command in this directory."""
    return {
        "COPPICE_STATE": str(tmp_path / "state"),
        "COPPICE_FAILURES": str(tmp_path / "failures"),
        "PATH": "/nowhere",
    }


def measured(
    address: str, key: str, results: Path, own: Mapping[str, str], *more: str
) -> subprocess.CompletedProcess[str]:
    arguments = ("--endpoint", address, *LIMITS, "--results", str(results), *more)
    return coppice("run", "e2b-latency", *arguments, **own, E2B_API_KEY=key)


def record_in(results: Path) -> RunRecord:
    (path,) = find(results)
    return load(path)


def files_with(text: str, directory: Path) -> list[Path]:
    return [
        path
        for path in directory.rglob("*")
        if path.is_file() and text.encode() in path.read_bytes()
    ]


def test_a_service_is_measured_without_root_or_qemu_and_its_key_is_nowhere(
    tmp_path: Path, own: Mapping[str, str]
) -> None:
    with standing_in("cubesandbox", boot_s=(0.12, 0.15)) as service:
        done = measured(
            service.address, service.key, tmp_path / "results", own, "--system", "cubesandbox"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert service.alive == [] and len(service.service.made) == 9
    record = record_in(tmp_path / "results")
    found = {one.metric: one for one in record.series}
    assert all(one.dimensions["system"] == "cubesandbox" for one in record.series)
    assert all("substrate" not in one.dimensions for one in record.series)
    assert min(found["create-headers"].samples) < 0.12 < min(found["usable"].samples)
    assert min(found["first-run-code"].samples) > 0.12
    assert {one.dimensions["of"] for one in record.series if one.metric == "round-trip"} == {
        "tcp-connect", "request",
    }  # fmt: skip
    programs = {one.dimensions["program"] for one in record.series if "program" in one.dimensions}
    assert programs == {"sh", "ls", "python3", "node", "uploaded"}
    assert record.endpoint is not None
    assert record.endpoint.system == "cubesandbox"
    assert record.endpoint.answered["route of creations"] == "/sandboxes"
    assert "its machine" in record.endpoint.unknown
    assert record.endpoint.limits == {"most sandboxes at once": 4, "most creations a second": 200.0}
    assert record.command.task.startswith("mise run bench:e2b-latency -- --endpoint http://")
    assert service.key not in done.stdout + done.stderr
    assert files_with(service.key, tmp_path) == []


def test_a_service_that_only_says_that_it_makes_sandboxes_is_caught(
    tmp_path: Path, own: Mapping[str, str]
) -> None:
    with standing_in("lying-echo") as service:
        done = measured(service.address, service.key, tmp_path / "results", own)
        assert service.alive == []
    assert done.returncode == 76
    assert "no sandbox ran a command" in done.stdout and "Traceback" not in done.stdout
    record = record_in(tmp_path / "results")
    assert record.validity.status == "failed"
    for metric in ("first-command", "usable", "first-run-code", "first-program"):
        assert not [one for one in record.series if one.metric == metric and one.samples]
    assert files_with(service.key, tmp_path) == []


@pytest.fixture
def started(tmp_path: Path, own: Mapping[str, str]) -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


def run_in(service: Standing, tmp_path: Path, own: Mapping[str, str]) -> subprocess.Popen[str]:
    arguments = ("run", "e2b-latency", "--endpoint", service.address, *LIMITS)
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *arguments, "--results", str(tmp_path / "results")],
        cwd=ROOT, env={**os.environ, **own, "E2B_API_KEY": service.key}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_an_interrupt_leaves_nothing_at_the_service(
    tmp_path: Path, own: Mapping[str, str], started: list[subprocess.Popen[str]]
) -> None:
    with standing_in(command_s=60.0) as service:  # the first command does not end
        started.append(run_in(service, tmp_path, own))
        eventually(lambda: service.service.requests["command"] == 1)
        started[0].send_signal(signal.SIGTERM)
        output, _ = started[0].communicate()
        assert started[0].returncode == 143, output
        assert len(service.service.made) == 1 and service.alive == []
    assert not list((tmp_path / "state").rglob("*.jsonl"))


def test_after_a_kill_the_command_clean_deletes_what_was_made(
    tmp_path: Path, own: Mapping[str, str], started: list[subprocess.Popen[str]]
) -> None:
    with standing_in(command_s=60.0) as service:
        started.append(run_in(service, tmp_path, own))
        eventually(lambda: service.service.requests["command"] == 1)
        for pid in (*children(started[0].pid), started[0].pid):
            os.kill(pid, signal.SIGKILL)
        started[0].communicate()
        assert len(service.alive) == 1
        done = coppice("clean", "--endpoint", service.address, **own, E2B_API_KEY=service.key)
        assert done.returncode == 0, done.stdout + done.stderr
        assert service.alive == []


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(one) for one in text.split()]


def test_a_gateway_in_another_network_is_a_service_like_any_other(
    tmp_path: Path, own: Mapping[str, str]
) -> None:
    if os.geteuid():
        pytest.skip("network namespaces need root")

    def there(run: Run) -> subprocess.CompletedProcess[str]:
        with elsewhere(run, one_way_s=0.002) as far:
            with gateway_elsewhere(run, far, "--substrate", "noop") as served:
                address = f"http://{FAR}:{served.port}"
                return far.from_near(
                    lambda: measured(address, served.key, tmp_path / "results", own)
                )

    with open_run() as run:
        done = there(run)
    assert done.returncode == 0, done.stdout + done.stderr
    record = record_in(tmp_path / "results")
    found = {(one.metric, one.dimensions.get("of")): one for one in record.series}
    assert min(found["round-trip", "tcp-connect"].samples) > 0.0039
    assert min(found["create-headers", None].samples) > 0.0039
    # It has no files and no programs, and says so: that is no failure.
    program = found["first-program", None]
    assert not program.samples and {one.kind for one in program.failures} == {"not-offered"}
    assert not [reason for reason in record.validity.reasons if "first-program" in reason]
