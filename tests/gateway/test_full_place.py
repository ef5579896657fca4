"""Disks that fill the place where they lie: one guest's failure, and no other's."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.gateway.gateway_process import GatewayProcess, running_gateway
from harness.host.disk_place import DiskPlace
from harness.host.run import Run
from tests.gateway.client import Box

JSON = {"Content-Type": "application/json"}
MIB = 1 << 20


@contextlib.contextmanager
def small(place: Path, mib: int) -> Iterator[Path]:
    """A file system of this size, on a directory that is made if it is not there."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place.mkdir(exist_ok=True)
    options = f"size={mib}m,mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "coppice-test", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@contextlib.contextmanager
def gateway(run: Run, place: Path, mib: int, *options: str) -> Iterator[GatewayProcess]:
    """A gateway whose sandboxes have their disks on a small file system."""
    with pytest.MonkeyPatch.context() as patch, small(place, mib):
        patch.setenv("COPPICE_DISKS", str(place))
        only = ("--only", "base", "--pool", "1", "--no-network")
        with running_gateway(run, *only, *options) as process:
            process.wait_for_pool("base", 1)
            yield process
        assert [path.name for path in place.iterdir()] == []


def create(served: GatewayProcess) -> tuple[int, str]:
    """The status of a creation and its message."""
    status, data = served.request("POST", "/v2/sandboxes", {"templateID": "base"}, JSON)
    return status, json.loads(data).get("message", "")


def until_refused(served: GatewayProcess) -> tuple[int, int, str]:
    """How many sandboxes can still be created, and how the next one is refused."""
    for made in range(20):
        status, message = create(served)
        if status != 201:
            return made, status, message
    raise AssertionError("20 sandboxes were created")


def test_a_microvm_that_fills_the_place_fails_alone(
    run: Run, possible: None, tmp_path: Path
) -> None:
    with gateway(run, tmp_path / "disks", 400, "--disk-reserve", "48") as served:
        # What the pool is forked from has taken its room.
        room = DiskPlace(tmp_path / "disks", 48 * MIB).room()
        assert served.process and served.process.stdout
        line = next(line for line in served.process.stdout if b"disks: " in line)
        assert line.endswith(b"room for %d more besides the pool\n" % room)
        greedy, modest = Box.create(served), Box.create(served)
        output, code = greedy.run("dd if=/dev/zero of=big bs=1M count=700 conv=fsync 2>&1")
        assert code != 0 and "error" in output, output
        # Its channel and its VMM are alive: the guest was told of the error, not stopped.
        assert greedy.run("echo still")[0] == "still\n"
        written = modest.run(
            "dd if=/dev/urandom of=own bs=1M count=24 conv=fsync 2>&1; sha1sum own"
        )
        assert "24+0 records out" in written[0] and "error" not in written[0], written
        _, status, message = until_refused(served)
        assert status == 507 and "no room" in message and "COPPICE_DISKS" in message
        with small(served.directory / "saved", 16):
            path = f"/sandboxes/{modest.id}"
            status, data = served.request("POST", f"{path}/pause", {}, JSON)
            assert (status, json.loads(data)["code"]) == (507, 507), data
            assert modest.state() == "running"
            assert modest.run("sha1sum own")[0] == written[0].splitlines()[-1] + "\n"
            assert list((served.directory / "saved").iterdir()) == []
        assert served.request("POST", f"{path}/pause", {}, JSON)[0] == 204
        assert greedy.kill() == 204
        assert served.request("POST", f"/v2{path}/connect", {}, JSON)[0] == 201
        assert modest.run("sha1sum own")[0] == written[0].splitlines()[-1] + "\n"
        assert modest.kill() == 204
        # Here the saved memory lies in a tmpfs, where pages that are only read take room too.
        with small(served.directory / "saved", 400) as saved:
            late = Box.create(served)
            path = f"/sandboxes/{late.id}"
            assert served.request("POST", f"{path}/pause", {}, JSON)[0] == 204
            with (saved / "filler").open("wb") as filler:
                found = os.statvfs(saved)
                os.posix_fallocate(filler.fileno(), 0, found.f_bavail * found.f_frsize)
            status, data = served.request("POST", f"/v2{path}/connect", {}, JSON)
            assert (status, json.loads(data)["code"]) == (507, 507), data
            assert str(saved) in json.loads(data)["message"]
            assert late.state() == "paused"
            (saved / "filler").unlink()
            assert served.request("POST", f"/v2{path}/connect", {}, JSON)[0] == 201
            assert late.kill() == 204


def test_a_container_has_the_disk_that_it_was_promised(
    run: Run, possible: None, tmp_path: Path
) -> None:
    options = ("--substrate", "oci", "--disk", "256", "--disk-reserve", "256")
    with gateway(run, tmp_path / "disks", 1200, *options) as served:
        greedy, modest = Box.create(served), Box.create(served)
        _, status, message = until_refused(served)
        assert status == 507 and "256 MiB" in message
        output, code = greedy.run("dd if=/dev/zero of=big bs=1M count=700 conv=fsync 2>&1")
        assert code != 0 and "No space left" in output
        assert modest.run("dd if=/dev/urandom of=own bs=1M count=200 conv=fsync; rm own")[1] == 0
        with small(served.directory / "saved", 16):
            path, files = f"/sandboxes/{greedy.id}", {"memory": False}
            assert served.request("POST", f"{path}/pause", files, JSON)[0] == 507
            assert greedy.state() == "running" and greedy.run("stat -c %s big")[1] == 0
