"""The rig of latencies at a service that is known only by its address, from the command to the
record: what it shows of it, what it leaves there, and that no file holds the key."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harness.errors import EndpointFailed
from harness.host.run import Run
from harness.measure.record import RunRecord, Series, find, load
from harness.network.namespace import inside
from tests.host.processes import ROOT, eventually
from tests.stand_ins.elsewhere import elsewhere, gateway_elsewhere
from tests.stand_ins.server import Standing, standing_in

VARIABLE = "KEY_OF_THE_STAND_IN"
OPTIONS = {
    "template": "base", "n": "1", "most-sandboxes": "4", "most-per-second": "100",
    "api-key-env": VARIABLE,
}  # fmt: skip


class Place:
    """Where commands keep what they write. `key` is in the variable that they are told of."""

    def __init__(self, directory: Path, key: str) -> None:
        self.directory = directory
        self.key = key
        self.output = ""

    @property
    def results(self) -> Path:
        return self.directory / "results"

    @property
    def environment(self) -> dict[str, str]:
        own = {
            name: str(self.directory / part)
            for name, part in (
                ("XDG_STATE_HOME", "state"), ("COPPICE_RUNTIME", "runtime"),
                ("COPPICE_FAILURES", "failures"),
            )
        }  # fmt: skip
        return {**os.environ, **own, VARIABLE: self.key}

    def coppice(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._done((sys.executable, "-m", "harness", *arguments))

    def measured(self, address: str, **more: str) -> subprocess.CompletedProcess[str]:
        """The rig's own process, without the command that starts it and judges its record."""
        return self._done(self.rig(address, **more))

    def stormed(self, address: str, **more: str) -> subprocess.CompletedProcess[str]:
        return self._done(self.rig(address, "e2b_storm", **more))

    def rig(self, address: str, name: str = "e2b_latency", **more: str) -> Sequence[str]:
        named = {**OPTIONS, "endpoint": address}
        named |= {name.replace("_", "-"): value for name, value in more.items()}
        settings = [("--set", f"{name}={value}") for name, value in named.items()]
        return (
            sys.executable, "-m", "pytest", f"rigs/test_{name}.py", "-p", "no:cacheprovider",
            "--coppice-profile=smoke", f"--coppice-results={self.results}",
            *itertools.chain.from_iterable(settings),
        )  # fmt: skip

    def _done(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            argv,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=200,
        )
        self.output += done.stdout + done.stderr
        return done

    @contextlib.contextmanager
    def started(self, address: str) -> Iterator[subprocess.Popen[str]]:
        """The rig's process, which the block ends. Its output goes to a file."""
        with (self.directory / "output").open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                self.rig(address), cwd=ROOT, env=self.environment, stdout=output, stderr=output,
                text=True, encoding="utf-8", process_group=0,
            )  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def record(self) -> RunRecord:
        (path,) = find(self.results)
        return load(path)

    def require_no_key(self) -> None:
        """No file and no output holds the key."""
        assert self.key not in self.output
        files = [path for path in self.directory.rglob("*") if path.is_file()]
        assert files
        for path in files:
            assert self.key.encode() not in path.read_bytes(), path


def place(directory: Path, service: Standing) -> Place:
    return Place(directory, service.key)


def series(record: RunRecord, metric: str) -> Series:
    (found,) = [one for one in record.series if one.metric == metric]
    return found


def test_a_service_like_cubesandbox_has_both_clocks_in_one_record(tmp_path: Path) -> None:
    with standing_in("cubesandbox", boot_s=(0.4, 0.5)) as service:
        here = place(tmp_path, service)
        named = {**OPTIONS, "endpoint": service.address, "system": "cubesandbox"}
        options = itertools.chain.from_iterable(("--" + name, text) for name, text in named.items())
        done = here.coppice("run", "e2b-latency", *options, "--results", str(here.results))
        assert done.returncode == 0, done.stdout + done.stderr
        assert service.alive == []
    record = here.record()
    about = record.endpoint
    assert about and (about.system, about.address) == ("cubesandbox", service.address)
    assert "its machine" in about.unknown
    assert any("405" in str(answer) for answer in about.not_offered.values()), about.not_offered
    headers, usable = series(record, "create-headers"), series(record, "usable")
    assert max(headers.samples) < 0.4 <= min(usable.samples)
    assert all(one.dimensions["system"] == "cubesandbox" for one in record.series)
    assert not any("substrate" in one.dimensions for one in record.series)
    assert all(one.samples for one in record.series if one.metric == "round-trip")
    here.require_no_key()


def test_a_service_that_lies_gives_a_failed_record(tmp_path: Path) -> None:
    with standing_in("lying-ready") as service:
        here = place(tmp_path, service)
        done = here.measured(service.address)
        assert done.returncode == EndpointFailed.exit_code, done.stdout + done.stderr
        assert "not what was asked for" in done.stdout
        assert service.alive == []
    record = here.record()
    assert record.validity.status == "failed"
    assert series(record, "usable").samples == []
    assert all(not one.samples for one in record.series if one.metric.startswith("first-"))
    here.require_no_key()


def test_an_interrupted_run_deletes_what_it_has_made(tmp_path: Path) -> None:
    # Every command lasts longer than the test waits, so that the run is in the middle of one.
    with standing_in(command_s=600.0) as service:
        here = place(tmp_path, service)
        with here.started(service.address) as process:
            eventually(lambda: service.service.requests["command"] > 0)
            assert len(service.alive) == 1
            process.send_signal(signal.SIGINT)
            assert process.wait(100) != 0
        assert service.alive == []
    here.require_no_key()


def test_what_a_killed_run_was_about_to_make_is_found_and_deleted(tmp_path: Path) -> None:
    # The sandbox exists, and the run has no answer yet that would name it.
    with standing_in(headers_s=600.0, headers_on="create") as service:
        here = place(tmp_path, service)
        with here.started(service.address) as process:
            eventually(lambda: service.alive != [])
            process.kill()
        (id,) = service.alive
        done = here.coppice("clean", "--endpoint", service.address, "--api-key-env", VARIABLE)
        assert (done.returncode, done.stderr) == (0, "")
        assert id in done.stdout
        assert service.alive == []
    here.require_no_key()


def test_a_storm_is_on_record_although_nobody_knows_what_it_left(tmp_path: Path) -> None:
    with standing_in("list-fails,busy-half") as service:
        here = place(tmp_path, service)
        storm = {"n": "8", "rate": "20", "programs": "sh", "most_sandboxes": "20"}
        done = here.stormed(service.address, **storm)
        assert "not known" in done.stdout
        assert service.alive == []
    record = here.record()
    usable, leaked = series(record, "usable"), series(record, "leaked")
    assert usable.samples and {failure.kind for failure in usable.failures} == {"refused"}
    assert len(usable.samples) + len(usable.failures) == 8
    assert series(record, "refused").samples == [float(len(usable.failures))]
    assert leaked.samples == [] and "500" in leaked.failures[0].reason
    here.require_no_key()


def test_our_own_gateway_is_a_foreign_address_beyond_a_slow_line(tmp_path: Path, run: Run) -> None:
    pytest.importorskip("uvicorn")
    options = ("--substrate", "noop", "--tls")
    one_way_s = 0.01
    with (
        elsewhere(run, one_way_s) as there,
        gateway_elsewhere(run, there, *options) as served,
    ):
        here = Place(tmp_path, served.key)
        trusted = {"ca_file": str(served.certificate), "sandbox_url": served.address}
        with inside(there.near):
            done = here.measured(served.address, **trusted)
        assert done.returncode == 0, done.stdout + done.stderr
        listed = there.from_near(lambda: served.request("GET", "/v2/sandboxes"))
        assert listed == (200, b"[]")
    record = here.record()
    assert record.endpoint and str(record.endpoint.answered["TLS"]).startswith("TLS")
    trips = [one for one in record.series if one.metric == "round-trip"]
    assert len(trips) == 2 and all(min(one.samples) >= 2 * one_way_s for one in trips)
    (usable_s,) = series(record, "usable").samples
    assert usable_s >= 2 * 2 * one_way_s
    # What runs nothing cannot run a program that it has not seen before.
    uploaded = [one for one in record.series if one.dimensions.get("program") == "uploaded"]
    assert uploaded and not any(one.samples for one in uploaded)
    here.require_no_key()
