"""The same API over containers: what works there, and what is said of what cannot."""

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

from harness.gateway.gateway_process import Running, gateway
from harness.host import cgroups
from harness.host.leftovers import reclaim
from harness.host.run import Run
from tests.gateway.client import INTERPRETER, Box
from tests.host.processes import eventually

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def own(run: Run, possible: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    runtime = Path("/run") / f"coppice-{tmp_path_factory.mktemp('oci').name}"
    runtime.mkdir()
    try:
        with gateway(run, "--substrate", "oci", "--pool", "2", runtime=runtime) as one:
            one.wait_for_pool("code-interpreter-v1", 2)
            yield one
    finally:
        (runtime / "leases").rmdir()
        runtime.rmdir()  # nothing else is left there


@pytest.fixture(scope="module")
def box(own: Running) -> Box:
    return Box.create(own, "code-interpreter-v1", timeout=600)


def cell(box: Box, code: str) -> list[dict[str, object]]:
    headers = box.headers(INTERPRETER, **JSON)
    status, data = box.served.ask("POST", "/execute", {"code": code}, headers)
    assert status == 200, data
    return [json.loads(line) for line in data.splitlines()]


def test_commands_files_and_cells(box: Box) -> None:
    assert box.run("id -un; cat /proc/1/comm") == ("user\nenvd\n", 0)
    assert box.run("exit 7")[1] == 7
    kind = {"Content-Type": "application/octet-stream"}
    assert box.served.ask("POST", "/files?path=a/b.txt", b"in", box.headers(**kind))[0] == 200
    assert box.served.ask("GET", "/files?path=a/b.txt", None, box.headers()) == (200, b"in")
    assert box.served.ask("GET", "/files?path=/etc/shadow", None, box.headers())[0] in (401, 403)
    assert cell(box, "x = 20\nx + 1")[1]["text"] == "21"
    assert cell(box, "x + 2")[1]["text"] == "22"


def test_it_is_a_container_of_its_own(own: Running, box: Box) -> None:
    other = Box.create(own)
    assert box.run("hostname")[0] != other.run("hostname")[0]
    other.run("touch /tmp/mine")
    assert box.run("ls /tmp/mine")[1] != 0
    assert len(box.run("ls -d /proc/[0-9]*")[0].split()) < 20
    root = {"Authorization": "Basic " + base64.b64encode(b"root:").decode()}
    with box.start("mount -t tmpfs none /mnt; echo c > /proc/sysrq-trigger", **root) as stream:
        assert stream.whole()[1] != 0
    assert other.kill() == 204
    assert own.ask("GET", f"/sandboxes/{other.id}")[0] == 404


def test_it_ends_when_its_time_is_up_and_when_it_dies(own: Running) -> None:
    timed, killed = Box.create(own), Box.create(own)
    timed.end_soon()
    id = killed.run("hostname")[0].strip().removeprefix("sandbox-")
    (file,) = Path(own.environment["COPPICE_RUNTIME"]).glob(f"*/oci/{id}/pid")
    with killed.start("sleep 600") as stream:
        messages = stream.messages()
        next(messages)
        os.kill(int(file.read_text()), signal.SIGKILL)
        _, last = list(messages)[-1]
        assert last["error"]["code"] == "unavailable"
    paths = [f"/sandboxes/{one.id}" for one in (timed, killed)]
    eventually(lambda: [own.ask("GET", path)[0] for path in paths] == [404, 404], 120)
    assert not file.exists()


def test_one_that_takes_all_memory_loses_that_process_alone(own: Running) -> None:
    if cgroups.find().unlimited:
        pytest.skip("this host's control groups limit no memory")
    box = Box.create(own)
    assert box.run("python3 -c 'x = bytearray(1 << 30); print(1)'")[1] != 0
    assert box.run("echo well") == ("well\n", 0)
    assert box.kill() == 204


def test_metrics_are_its_own_and_not_this_host_s(own: Running, box: Box) -> None:
    if cgroups.find().unlimited:
        pytest.skip("this host's control groups count no memory")

    def now() -> dict[str, int]:
        status, data = own.ask("GET", f"/sandboxes/{box.id}/metrics")
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
def test_memory_is_not_kept_and_that_is_said(box: Box, path: str, body: object) -> None:
    status, data = box.served.ask("POST", f"/sandboxes/{box.id}/{path}", body, JSON)
    said = json.loads(data)
    assert (status, said["code"]) == (400, 400) and "CRIU" in said["message"]
    wanted = {"templateID": "base", "autoPause": True}
    assert box.served.ask("POST", "/v2/sandboxes", wanted, JSON)[0] == 400
    assert cell(box, "'still here'")[1]["text"] == "'still here'"


def test_files_are_kept_by_a_pause_a_snapshot_and_an_end_of_time(own: Running) -> None:
    box = Box.create(own, "code-interpreter-v1", timeout=300)
    box.run("echo kept > kept.txt; chmod 600 kept.txt")
    root = {"Authorization": "Basic " + base64.b64encode(b"root:").decode()}
    with box.start("rm /etc/debian_version; mkdir /new", **root) as stream:
        assert stream.whole()[1] == 0
    path = f"/sandboxes/{box.id}"
    status, data = own.ask("POST", f"{path}/snapshots", {"memory": False}, JSON)
    assert status == 201
    box.run("echo later > kept.txt")
    assert own.ask("POST", f"{path}/pause", {"memory": False}, JSON)[0] == 204
    assert own.ask("POST", f"/v2{path}/connect", {}, JSON)[0] == 201
    assert box.run("cat kept.txt; ls -d /new") == ("later\n/new\n", 0)
    assert box.run("ls /etc/debian_version")[1] != 0
    assert cell(box, "1+1")[1]["text"] == "2"
    copy = Box.create(own, json.loads(data)["snapshotID"])
    assert copy.run("cat kept.txt; stat -c '%a %U' kept.txt") == ("kept\n600 user\n", 0)
    assert copy.run("ls /etc/debian_version")[1] != 0
    resumes = {"enabled": True}
    timed = Box.create(own, autoPause=True, autoPauseMemory=False, autoResume=resumes)
    timed.run("echo slept > slept.txt")
    timed.end_soon()
    eventually(lambda: timed.state() == "paused", 120)
    assert timed.run("cat slept.txt") == ("slept\n", 0)
    for one in (box, copy, timed):
        assert one.kill() == 204


def test_what_was_written_leads_nowhere_on_this_host(own: Running, tmp_path: Path) -> None:
    """Who resumes is named anew, by this host's root: through no link that the sandbox has left."""
    names = ("machine-id", "hostname", "hosts")
    tmp_path.chmod(0o755)
    for one in names:
        (tmp_path / one).write_text("this host's own")
    root = {"Authorization": "Basic " + base64.b64encode(b"root:").decode()}
    linked, foldered, single = (Box.create(own) for _ in range(3))
    for box, attack in (
        (linked, f"cp -a /etc /etc2; rm -rf /etc; ln -s {tmp_path} /etc"),
        (single, f"for f in {' '.join(names)}; do ln -sf {tmp_path}/$f /etc/$f; done"),
        (foldered, "cd /etc; rm -f machine-id; mkdir machine-id"),
    ):
        with box.start(attack, **root) as stream:
            stream.whole()
        path = f"/sandboxes/{box.id}"
        assert own.ask("POST", f"{path}/pause", {"memory": False}, JSON)[0] == 204
        assert own.ask("POST", f"/v2{path}/connect", {}, JSON)[0] == 201
        assert {one.name for one in tmp_path.iterdir()} == set(names)
        for one in names:
            assert (tmp_path / one).read_text() == "this host's own"
        assert box.kill() == 204


def test_a_full_disk_is_told_and_is_nobody_else_s(own: Running) -> None:
    box, other = Box.create(own), Box.create(own)
    free = int(box.run("df --output=avail -k / | tail -1")[0])
    assert free < 4 << 20  # of its own, and not this host's
    assert box.run(f"fallocate -l {free - 2000}K filler")[1] == 0
    kind = {"Content-Type": "application/octet-stream"}
    status, data = own.ask("POST", "/files?path=more", bytes(8 << 20), box.headers(**kind))
    assert (status, json.loads(data)["code"]) == (507, 507)
    assert box.run("ls -A | grep -c -e more -e part")[0] == "0\n"
    assert other.run("echo x > mine; cat mine") == ("x\n", 0)
    assert box.run("rm filler; echo x > again; cat again") == ("x\n", 0)
    for one in (box, other):
        assert one.kill() == 204


def test_a_killed_gateway_finds_them_again_and_nothing_else_is_left(own: Running, box: Box) -> None:
    cell(box, "before = 5")
    waits = "while ! test -e go; do sleep 0.1; done"
    with box.start(f"{waits}; echo after > after.txt") as stream:
        next(stream.messages())
    stop = threading.Event()
    made: list[str] = []

    def load() -> None:
        while not stop.is_set():
            with contextlib.suppress(Exception):
                one = Box.create(own, timeout=600)
                made.append(one.id)
                one.kill()

    thread = threading.Thread(target=load)
    thread.start()
    eventually(lambda: len(made) >= 3, 120)
    own.kill()
    stop.set()
    thread.join()
    own.begin()
    assert cell(box, "before + 1")[1]["text"] == "6"
    box.run("touch go")
    eventually(lambda: box.run("cat after.txt")[0] == "after\n", 120)
    own.wait_for_pool("base", 2)
    own.wait_for_pool("code-interpreter-v1", 2)
    listed = json.loads(own.ask("GET", "/v2/sandboxes")[1])
    runtime = Path(own.environment["COPPICE_RUNTIME"])

    def there() -> tuple[int, int, int]:
        """Containers, what is mounted, and devices; what was being made at the end goes."""
        mounts = Path("/proc/self/mounts").read_text().count(f" {runtime}/")
        loops = subprocess.run(["losetup", "--list", "--output", "BACK-FILE"], capture_output=True)
        devices = loops.stdout.decode().count(f"{runtime}/")
        return len(list(runtime.glob("*/oci/*"))), mounts, devices

    many = len(listed) + 4
    # Of each its root and its disk are mounted; and the network.
    eventually(lambda: there() == (many, 2 * many + 1, many))


def test_stopped_in_order_it_keeps_their_files(own: Running, box: Box) -> None:
    box.run("echo held > held.txt")
    own.end()
    runtime = Path(own.environment["COPPICE_RUNTIME"])
    assert [one.name for one in runtime.iterdir()] == ["leases"]
    assert not any((runtime / "leases").iterdir())
    own.begin()
    assert box.run("cat held.txt") == ("held\n", 0)


def test_clean_removes_all_of_one_that_does_not_come_back(own: Running) -> None:
    Box.create(own)
    own.kill()
    runtime = Path(own.environment["COPPICE_RUNTIME"])
    assert list(runtime.glob("*/oci/*"))
    reclaim(runtime)
    assert [one.name for one in runtime.iterdir()] == ["leases"]
    assert not any((runtime / "leases").iterdir())
    assert f" {runtime}/" not in Path("/proc/self/mounts").read_text()
    loops = subprocess.run(["losetup", "--list", "--output", "BACK-FILE"], capture_output=True)
    assert f"{runtime}/" not in loops.stdout.decode()
