"""The same API with containers, and its errors for what containers do not support."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.gateway.gateway_process import GatewayProcess, running_gateway
from harness.host import cgroups
from harness.host.leftovers import reclaim
from harness.host.run import Run
from tests.gateway.client import INTERPRETER, Box
from tests.gateway.conftest import own_runtime
from tests.host.processes import eventually

JSON = {"Content-Type": "application/json"}
RESUMED_S = 15
"""The time limit of a sandbox that resumes by itself: a command must end within it."""


@pytest.fixture(scope="module")
def own(run: Run, possible: None) -> Iterator[GatewayProcess]:
    with own_runtime() as runtime, pytest.MonkeyPatch.context() as patch:
        # Their files are counted below, and /run may be in memory.
        patch.setenv("COPPICE_DISKS", str(runtime))
        options = ("--substrate", "oci", "--pool", "2")
        with running_gateway(run, *options, runtime=runtime) as process:
            process.wait_for_pool("code-interpreter-v1", 2)
            yield process


@pytest.fixture(scope="module")
def box(own: GatewayProcess) -> Box:
    return Box.create(own, "code-interpreter-v1", timeout=600)


def cell(box: Box, code: str) -> list[dict[str, object]]:
    headers = box.headers(INTERPRETER, **JSON)
    status, data = box.served.request("POST", "/execute", {"code": code}, headers)
    assert status == 200, data
    return [json.loads(line) for line in data.splitlines()]


def test_commands_files_and_cells(box: Box) -> None:
    assert box.run("id -un; cat /proc/1/comm") == ("user\nenvd\n", 0)
    assert box.run("exit 7")[1] == 7
    kind = {"Content-Type": "application/octet-stream"}
    assert box.served.request("POST", "/files?path=a/b.txt", b"in", box.headers(**kind))[0] == 200
    assert box.served.request("GET", "/files?path=a/b.txt", None, box.headers()) == (200, b"in")
    assert box.served.request("GET", "/files?path=/etc/shadow", None, box.headers())[0] in (
        401,
        403,
    )
    assert cell(box, "x = 20\nx + 1")[1]["text"] == "21"
    assert cell(box, "x + 2")[1]["text"] == "22"


def test_each_sandbox_is_a_separate_container(own: GatewayProcess, box: Box) -> None:
    other = Box.create(own)
    assert box.run("hostname")[0] != other.run("hostname")[0]
    other.run("touch /tmp/mine")
    assert box.run("ls /tmp/mine")[1] != 0
    assert len(box.run("ls -d /proc/[0-9]*")[0].split()) < 20
    root = {"Authorization": "Basic " + base64.b64encode(b"root:").decode()}
    with box.start("mount -t tmpfs none /mnt; echo c > /proc/sysrq-trigger", **root) as stream:
        assert stream.result()[1] != 0
    assert other.kill() == 204
    assert own.request("GET", f"/sandboxes/{other.id}")[0] == 404


def test_a_sandbox_ends_when_its_time_is_up_and_when_it_dies(own: GatewayProcess) -> None:
    timed, killed = Box.create(own), Box.create(own)
    timed.end_in(1)
    id = killed.run("hostname")[0].strip().removeprefix("sandbox-")
    (file,) = Path(own.environment["COPPICE_RUNTIME"]).glob(f"*/oci/{id}/pid")
    with killed.start("sleep 600") as stream:
        messages = stream.messages()
        next(messages)
        os.kill(int(file.read_text(encoding="utf-8")), signal.SIGKILL)
        _, last = list(messages)[-1]
        assert last["error"]["code"] == "unavailable"
    paths = [f"/sandboxes/{box.id}" for box in (timed, killed)]
    eventually(lambda: [own.request("GET", path)[0] for path in paths] == [404, 404], 120)
    assert not file.exists()


def test_a_sandbox_out_of_memory_loses_only_that_process(own: GatewayProcess) -> None:
    if cgroups.find().unlimited:
        pytest.skip("this host's control groups limit no memory")
    box = Box.create(own)
    assert box.run("python3 -c 'x = bytearray(1 << 30); print(1)'")[1] != 0
    assert box.run("echo well") == ("well\n", 0)
    assert box.kill() == 204


def test_metrics_are_those_of_the_sandbox_not_of_the_host(own: GatewayProcess, box: Box) -> None:
    if cgroups.find().unlimited:
        pytest.skip("this host's control groups count no memory")

    def now() -> dict[str, int]:
        status, data = own.request("GET", f"/sandboxes/{box.id}/metrics")
        assert status == 200
        last: dict[str, int] = json.loads(data)[-1]
        return last

    before = now()
    assert before["memTotal"] == 512 << 20
    hold = "import time; x = b'x' * (100 << 20); print('held', flush=True); time.sleep(600)"
    with box.start(f'exec python3 -c "{hold}"') as stream:
        messages = stream.messages()
        pid = next(messages)[1]["event"]["start"]["pid"]
        next(messages)
        assert 100 << 20 <= now()["memUsed"] - before["memUsed"] < 150 << 20
        selector = {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"}
        assert box.rpc("process.Process/SendSignal", selector)[0] == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [("pause", {}), ("pause", {"memory": True}), ("snapshots", {}), ("fork", {"count": 1})],
)
def test_saving_memory_is_refused_with_the_reason(box: Box, path: str, body: object) -> None:
    status, data = box.served.request("POST", f"/sandboxes/{box.id}/{path}", body, JSON)
    error = json.loads(data)
    assert (status, error["code"]) == (400, 400) and "CRIU" in error["message"]
    request = {"templateID": "base", "autoPause": True}
    assert box.served.request("POST", "/v2/sandboxes", request, JSON)[0] == 400
    assert cell(box, "'still here'")[1]["text"] == "still here"


def test_pauses_snapshots_and_time_limits_keep_files(own: GatewayProcess) -> None:
    box = Box.create(own, "code-interpreter-v1", timeout=300)
    box.run("echo kept > kept.txt; chmod 600 kept.txt")
    root = {"Authorization": "Basic " + base64.b64encode(b"root:").decode()}
    with box.start("rm /etc/debian_version; mkdir /new", **root) as stream:
        assert stream.result()[1] == 0
    path = f"/sandboxes/{box.id}"
    status, data = own.request("POST", f"{path}/snapshots", {"memory": False}, JSON)
    assert status == 201
    box.run("echo later > kept.txt")
    assert own.request("POST", f"{path}/pause", {"memory": False}, JSON)[0] == 204
    assert own.request("POST", f"/v2{path}/connect", {}, JSON)[0] == 201
    assert box.run("cat kept.txt; ls -d /new") == ("later\n/new\n", 0)
    assert box.run("ls /etc/debian_version")[1] != 0
    assert cell(box, "1+1")[1]["text"] == "2"
    copy = Box.create(own, json.loads(data)["snapshotID"])
    assert copy.run("cat kept.txt; stat -c '%a %U' kept.txt") == ("kept\n600 user\n", 0)
    assert copy.run("ls /etc/debian_version")[1] != 0
    resumes = {"enabled": True}
    timed = Box.create(own, autoPause=True, autoPauseMemory=False, autoResume=resumes)
    timed.run("echo slept > slept.txt")
    timed.end_in(RESUMED_S)
    eventually(lambda: timed.state() == "paused", 120)
    assert timed.run("cat slept.txt") == ("slept\n", 0)
    for sandbox in (box, copy, timed):
        assert sandbox.kill() == 204


def test_a_sandbox_s_links_lead_nowhere_on_this_host(own: GatewayProcess, tmp_path: Path) -> None:
    """Root on this host writes the names of a resumed sandbox: it must not follow its links."""
    files = ("machine-id", "hostname", "hosts")
    tmp_path.chmod(0o755)
    for name in files:
        (tmp_path / name).write_text("this host's own", encoding="utf-8")
    root = {"Authorization": "Basic " + base64.b64encode(b"root:").decode()}
    linked, with_directory, single = (Box.create(own) for _ in range(3))
    for box, attack in (
        (linked, f"cp -a /etc /etc2; rm -rf /etc; ln -s {tmp_path} /etc"),
        (single, f"for f in {' '.join(files)}; do ln -sf {tmp_path}/$f /etc/$f; done"),
        (with_directory, "cd /etc; rm -f machine-id; mkdir machine-id"),
    ):
        with box.start(attack, **root) as stream:
            stream.result()
        path = f"/sandboxes/{box.id}"
        assert own.request("POST", f"{path}/pause", {"memory": False}, JSON)[0] == 204
        assert own.request("POST", f"/v2{path}/connect", {}, JSON)[0] == 201
        assert {name.name for name in tmp_path.iterdir()} == set(files)
        for name in files:
            assert (tmp_path / name).read_text(encoding="utf-8") == "this host's own"
        assert box.kill() == 204


def test_a_full_disk_is_reported_and_affects_no_other_sandbox(own: GatewayProcess) -> None:
    box, other = Box.create(own), Box.create(own)
    free = int(box.run("df --output=avail -k / | tail -1")[0])
    assert free < 4 << 20  # its own disk, not this host's
    assert box.run(f"fallocate -l {free - 2000}K filler")[1] == 0
    kind = {"Content-Type": "application/octet-stream"}
    status, data = own.request("POST", "/files?path=more", bytes(8 << 20), box.headers(**kind))
    assert (status, json.loads(data)["code"]) == (507, 507)
    assert box.run("ls -A | grep -c -e more -e part")[0] == "0\n"
    assert other.run("echo x > mine; cat mine") == ("x\n", 0)
    assert box.run("rm filler; echo x > again; cat again") == ("x\n", 0)
    for sandbox in (box, other):
        assert sandbox.kill() == 204


def test_after_a_crash_sandboxes_are_adopted_and_nothing_else_is_left(
    own: GatewayProcess, box: Box
) -> None:
    cell(box, "before = 5")
    waits = "while ! test -e go; do sleep 0.1; done"
    with box.start(f"{waits}; echo after > after.txt") as stream:
        next(stream.messages())
    stop = threading.Event()
    ids: list[str] = []

    def load() -> None:
        while not stop.is_set():
            with contextlib.suppress(Exception):
                created = Box.create(own, timeout=600)
                ids.append(created.id)
                created.kill()

    thread = threading.Thread(target=load)
    thread.start()
    eventually(lambda: len(ids) >= 3, 120)
    own.kill()
    stop.set()
    thread.join()
    own.start()
    assert cell(box, "before + 1")[1]["text"] == "6"
    box.run("touch go")
    eventually(lambda: box.run("cat after.txt")[0] == "after\n", 120)
    own.wait_for_pool("base", 2)
    own.wait_for_pool("code-interpreter-v1", 2)
    listed = json.loads(own.request("GET", "/v2/sandboxes")[1])
    runtime = Path(own.environment["COPPICE_RUNTIME"])

    def counts() -> tuple[int, int, int]:
        """The numbers of containers, mounts and loop devices."""
        points = [
            Path(line.split()[1])
            for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        ]
        # The run's own directory is a mount where /run is mounted noexec.
        mounts = sum(runtime in point.parents and point.parent != runtime for point in points)
        loops = subprocess.run(["losetup", "--list", "--output", "BACK-FILE"], capture_output=True)
        devices = loops.stdout.decode().count(f"{runtime}/")
        return len(list(runtime.glob("*/oci/*"))), mounts, devices

    many = len(listed) + 4
    # Each has a root and a disk mounted; the network is a mount too.
    eventually(lambda: counts() == (many, 2 * many + 1, many))


def test_a_stopped_gateway_keeps_its_sandboxes_files(own: GatewayProcess, box: Box) -> None:
    box.run("echo held > held.txt")
    own.stop()
    runtime = Path(own.environment["COPPICE_RUNTIME"])
    assert [entry.name for entry in runtime.iterdir()] == ["leases"]
    assert not any((runtime / "leases").iterdir())
    own.start()
    assert box.run("cat held.txt") == ("held\n", 0)


def test_clean_removes_everything_of_a_gateway_that_is_not_restarted(own: GatewayProcess) -> None:
    Box.create(own)
    own.kill()
    runtime = Path(own.environment["COPPICE_RUNTIME"])
    assert list(runtime.glob("*/oci/*"))
    reclaim(runtime, waiting=True)
    assert [entry.name for entry in runtime.iterdir()] == ["leases"]
    assert not any((runtime / "leases").iterdir())
    assert f" {runtime}/" not in Path("/proc/self/mounts").read_text(encoding="utf-8")
    loops = subprocess.run(["losetup", "--list", "--output", "BACK-FILE"], capture_output=True)
    assert f"{runtime}/" not in loops.stdout.decode()
