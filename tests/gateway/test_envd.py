"""envd under conditions that no SDK causes: malformed streams, disconnects, floods, full disks."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import struct
import threading
import time
from pathlib import Path

import psutil
import pytest

from harness.gateway.gateway_process import GatewayProcess
from tests.gateway.client import INTERPRETER, Box, envelope
from tests.host.processes import eventually

FLOOD = 100_000_000
LARGE_MIB = int(os.environ.get("COPPICE_TRANSFER_MIB", "96"))
"""The size of a file that is uploaded and downloaded."""
BOUND = 24 << 20
"""Bytes by which the gateway's memory may grow meanwhile."""


def test_a_command_s_output_and_end(box: Box) -> None:
    assert box.run("echo out; echo err >&2; id -un") == ("out\nerr\nuser\n", 0)
    assert box.run("exit 7") == ("", 7)
    assert box.run("kill -9 $$") == ("", -1)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "invalid_argument"),
        (b"\0\0", "invalid_argument"),
        (b"\0\0\0\0\x10{}", "invalid_argument"),  # longer than the data
        (b"\0\xff\xff\xff\xff{}", "resource_exhausted"),  # much longer
        (struct.pack(">BI", 1, 2) + b"{}", "unimplemented"),  # compressed
        (struct.pack(">BI", 0x80, 2) + b"{}", "invalid_argument"),
        (struct.pack(">BI", 0, 3) + b"{]}", "invalid_argument"),
        (struct.pack(">BI", 0, 2) + b"[]", "invalid_argument"),
        (envelope({}), "invalid_argument"),
        (envelope({"process": {"cmd": "/bin/sh", "args": [7]}}), "invalid_argument"),
        (envelope({"process": {"cmd": "/bin/sh", "args": ["a\0b"]}}), "invalid_argument"),
        (envelope({"process": {"cmd": "/nothing"}}), "not_found"),
        (envelope({"process": {"cmd": "/bin/sh", "cwd": "/nothing"}}), "invalid_argument"),
        (envelope({"process": {"cmd": "/bin/sh", "args": ["x" * 200000]}}), "invalid_argument"),
    ],
)
def test_a_malformed_stream_gets_an_error(box: Box, data: bytes, code: str) -> None:
    with box.begin(data) as stream:
        assert stream.response.status == 200
        assert stream.error()["code"] == code
    assert box.run("echo well") == ("well\n", 0)


def test_a_token_is_for_its_own_sandbox(served: GatewayProcess, box: Box) -> None:
    other = Box.create(served)
    for wrong in (other.token, other.traffic, box.traffic, ""):
        headers = {**box.headers(), "X-Access-Token": wrong, "Content-Type": "application/json"}
        status, data = served.request("POST", "/process.Process/List", {}, headers)
        assert (status, json.loads(data)["code"]) == (401, "unauthenticated")
        assert served.request("GET", "/files?path=/etc/passwd", None, headers)[0] == 401
        headers = {**box.headers(INTERPRETER), "X-Access-Token": wrong}
        if wrong != box.traffic:  # valid for the ports of this sandbox
            assert served.request("POST", "/execute", {"code": "1"}, headers)[0] == 401
    assert other.kill() == 204


def test_a_host_name_names_a_sandbox_too(served: GatewayProcess, box: Box) -> None:
    headers = {"Host": f"49983-{box.id}.sandboxes.test", "X-Access-Token": box.token}
    assert served.request("GET", "/health", None, headers)[0] == 204
    assert served.request("GET", "/files?path=/etc/hostname", None, headers)[0] == 200
    closed = {"Host": f"8080-{box.id}.sandboxes.test"}
    assert b"port is not open" in served.request("GET", "/", None, closed)[1]


def test_files_are_accessed_with_the_user_s_rights(box: Box) -> None:
    served = box.served

    def ask(method: str, path: str, data: bytes | None = None) -> int:
        kind = {"Content-Type": "application/octet-stream"}
        return served.request(method, f"/files?path={path}", data, box.headers(**kind))[0]

    assert ask("POST", "/etc/passwd", b"x") in (401, 403)
    assert ask("GET", "/etc/shadow") in (401, 403)
    assert ask("GET", "../../etc/shadow") in (401, 403)
    assert box.run("ln -s /etc/shadow link; ln -s /etc/new into; ln -s loop loop")[1] == 0
    assert ask("GET", "link") in (401, 403)
    assert ask("POST", "into", b"x") in (401, 403)
    assert ask("GET", "loop") == 400
    assert ask("GET", "nothing") == 404
    assert ask("GET", "/home/user") == 400
    assert ask("GET", "/etc/shadow&username=root") == 200
    # No path leads to a file of this host.
    here = os.path.realpath(__file__)
    for name in (here, f"/proc/1/root{here}", f"/../../..{here}"):
        assert ask("GET", name) in (401, 403, 404)


def test_an_upload_is_complete_or_absent(box: Box) -> None:
    headers = box.headers(**{"Content-Type": "application/octet-stream"})
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = "POST /files?path=half.bin HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n"
    with socket.create_connection(("127.0.0.1", box.served.port)) as connection:
        connection.sendall((head + "\r\n".join(lines) + "\r\n\r\n").encode() + bytes(1_000_000))
        eventually(lambda: box.run("ls -A | grep -c half")[0] == "1\n", 120)  # the upload has begun
    eventually(lambda: box.run("ls -A | grep -c half")[0] == "0\n", 120)
    form = b"--b\r\nContent-Disposition: form-data; name=file; filename=cut.txt\r\n\r\ncut"
    content_type = {"Content-Type": "multipart/form-data; boundary=b"}
    assert box.served.request("POST", "/files", form, box.headers(**content_type))[0] == 400
    assert box.run("ls -A | grep -c cut")[0] == "0\n"


def test_a_large_file_is_transferred_in_little_memory(box: Box) -> None:
    """The gateway's peak memory does not grow with the size of the file."""
    size = LARGE_MIB << 20
    before = _resident(box.served)
    _reset_peak(box.served)
    headers = box.headers(**{"Content-Type": "application/octet-stream"})
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = f"POST /files?path=large.bin HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n"
    piece = os.urandom(1 << 20)
    with socket.create_connection(("127.0.0.1", box.served.port)) as connection:
        connection.sendall((head + "\r\n".join(lines) + "\r\n\r\n").encode())
        for _ in range(size >> 20):
            connection.sendall(piece)
        assert b" 200 " in connection.recv(4096).split(b"\r\n")[0]
    head = "GET /files?path=large.bin HTTP/1.1\r\nHost: x\r\n"
    with socket.create_connection(("127.0.0.1", box.served.port)) as connection:
        connection.sendall((head + "\r\n".join(lines) + "\r\n\r\n").encode())
        with connection.makefile("rb") as response:
            while response.readline() != b"\r\n":
                pass
            for _ in range(size >> 20):
                assert response.read(1 << 20) == piece
    grown = _peak(box.served) - before
    print(f"grew by {grown >> 10} KiB")
    assert grown < BOUND
    box.run("rm large.bin")


def _resident(served: GatewayProcess) -> int:
    assert served.process
    resident: int = psutil.Process(served.process.pid).memory_info().rss
    return resident


def _reset_peak(served: GatewayProcess) -> None:
    assert served.process
    Path(f"/proc/{served.process.pid}/clear_refs").write_text("5", encoding="utf-8")


def _peak(served: GatewayProcess) -> int:
    """The peak resident memory since the last reset, in bytes."""
    assert served.process
    status = Path(f"/proc/{served.process.pid}/status").read_text(encoding="utf-8")
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.M)
    assert found
    return int(found[1]) * 1024


def test_a_slow_reader_of_a_flood_delays_no_other_process(box: Box) -> None:
    before = _resident(box.served)
    _reset_peak(box.served)
    with box.start(f"exec head -c {FLOOD} /dev/zero") as slow:
        messages = slow.messages()
        pid = next(messages)[1]["event"]["start"]["pid"]
        written: list[str] = []

        def stalled() -> bool:
            """Its output is no longer read."""
            written.append(box.run(f"grep wchar /proc/{pid}/io")[0])
            return len(written) > 2 and written[-1] == written[-2] != "wchar: 0\n"

        eventually(stalled, 120)
        for _ in range(3):
            assert box.run("echo meanwhile") == ("meanwhile\n", 0)
        got = 0
        for _, body in messages:
            for data in body.get("event", {}).get("data", {}).values():
                got += len(base64.b64decode(data))
        assert got == FLOOD
    grown = _peak(box.served) - before
    print(f"grew by {grown >> 10} KiB")
    assert grown < BOUND


def test_a_process_outlives_its_caller_s_connection(box: Box) -> None:
    waits = "while ! test -e go; do sleep 0.1; done"
    with box.start(f"{waits}; echo done > left.txt") as stream:
        _, first = next(stream.messages())
        pid = first["event"]["start"]["pid"]
    status, listed = box.rpc("process.Process/List", {})
    assert status == 200 and pid in [process["pid"] for process in listed["processes"]]
    with box.begin(envelope({"process": {"pid": pid}}), "process.Process/Connect") as again:
        box.run("touch go")
        assert again.result()[1] == 0
    assert box.run("cat left.txt") == ("done\n", 0)


def test_a_time_limit_ends_a_process_whose_caller_has_disconnected(box: Box) -> None:
    with box.start("sleep 600", **{"Connect-Timeout-Ms": "3000"}) as stream:
        _, first = next(stream.messages())
        pid = first["event"]["start"]["pid"]

    def processes() -> list[int]:
        return [process["pid"] for process in box.rpc("process.Process/List", {})[1]["processes"]]

    eventually(lambda: pid not in processes(), 120)


SLOW_TO_DIE = (
    "python3 -c 'import time; x = b\"x\" * (150 << 20); print(1, flush=True); time.sleep(600)' &"
    "echo $!; wait; :"
)
"""The kernel takes a while to free its memory."""


def test_a_killed_process_and_its_group_are_gone_once_the_kill_is_answered(box: Box) -> None:
    for slow in (
        SLOW_TO_DIE,
        SLOW_TO_DIE.replace(" &echo $!; wait; :", "").replace("py", "exec py", 1),
    ):
        with box.start(slow) as stream:
            messages = stream.messages()
            pid = next(messages)[1]["event"]["start"]["pid"]
            output = b""
            while not output.endswith(b"1\n") or len(output.split()) < slow.count("wait") + 1:
                output += base64.b64decode(next(messages)[1]["event"]["data"]["stdout"])
            pids = [str(pid), *output.decode().split()[:-1]]
            selector = {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"}
            assert box.rpc("process.Process/SendSignal", selector)[0] == 200
            for each in pids:
                assert box.run(f"kill -0 {each}")[1] != 0
            assert box.rpc("process.Process/SendSignal", selector)[0] == 404


def test_keepalives_come_at_the_requested_interval(box: Box) -> None:
    begun = time.monotonic()
    with box.start("exec sleep 600", **{"Keepalive-Ping-Interval": "1"}) as stream:
        messages = stream.messages()
        pid = next(messages)[1]["event"]["start"]["pid"]
        assert ["keepalive" in next(messages)[1]["event"] for _ in range(3)] == [True] * 3
        assert time.monotonic() - begun > 2.9, "more often than requested"
    selector = {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"}
    assert box.rpc("process.Process/SendSignal", selector)[0] == 200


def test_a_full_disk_is_reported_and_leaves_no_partial_file(served: GatewayProcess) -> None:
    box = Box.create(served)
    free = int(box.run("df --output=avail -k / | tail -1")[0])
    assert box.run(f"fallocate -l {free - 2000}K filler")[1] == 0
    kind = {"Content-Type": "application/octet-stream"}
    status, data = served.request("POST", "/files?path=more", bytes(8 << 20), box.headers(**kind))
    assert (status, json.loads(data)["code"]) == (507, 507)
    assert box.run("ls -A | grep -c -e more -e part")[0] == "0\n"
    assert box.run("rm filler; echo x > again; cat again") == ("x\n", 0)
    assert box.kill() == 204


def test_the_death_of_a_guest_ends_its_streams_and_its_sandbox(served: GatewayProcess) -> None:
    box = Box.create(served)
    with box.start("echo here; sleep 600") as stream:
        messages = stream.messages()
        next(messages)
        next(messages)
        root = {"cmd": "/bin/sh", "args": ["-c", "echo c > /proc/sysrq-trigger"]}
        user = {"Authorization": "Basic " + base64.b64encode(b"root:").decode()}
        begun = threading.Thread(
            target=lambda: box.begin(envelope({"process": root}), **user).__exit__()
        )
        begun.start()
        flag, last = list(messages)[-1]
        assert flag == 2 and last["error"]["code"] == "unavailable"
        begun.join()
    eventually(lambda: served.request("GET", f"/sandboxes/{box.id}")[0] == 404, 120)
    assert served.request("GET", "/health", None, box.headers())[0] == 502


def test_cells_and_contexts(served: GatewayProcess) -> None:
    box = Box.create(served, "code-interpreter-v1")

    def run(code: str, **more: object) -> list[dict[str, object]]:
        headers = box.headers(INTERPRETER, **{"Content-Type": "application/json"})
        status, data = served.request("POST", "/execute", {"code": code, **more}, headers)
        assert status == 200, data
        return [json.loads(connection) for connection in data.splitlines()]

    first = run("1+1")
    assert first[0] == {"type": "number_of_executions", "execution_count": 1}
    assert first[1]["text"] == "2" and first[1]["is_main_result"] is True
    assert first[-1] == {"type": "end_of_execution"}
    output = run("import os\nprint('a')\nos.system('echo b')\nx = 1")
    texts = [line["text"] for line in output if line["type"] == "stdout"]
    assert "".join(map(str, texts)) == "a\nb\n"
    wrong = run("def f():\n  return 1/0\nf()")
    error = next(line for line in wrong if line["type"] == "error")
    assert error["name"] == "ZeroDivisionError" and "return 1/0" in str(error["traceback"])
    headers = box.headers(INTERPRETER, **{"Content-Type": "application/json"})
    assert served.request("POST", "/execute", {"code": "1", "language": "r"}, headers)[0] == 400
    assert served.request("POST", "/execute", {"code": "1", "context_id": "no"}, headers)[0] == 404
    assert served.request("POST", "/execute", b"{", headers)[0] == 400
    # A disconnect interrupts the cell, and the context stays usable.
    connection = socket.create_connection(("127.0.0.1", served.port))
    body = json.dumps({"code": "import time\nprint('on')\ntime.sleep(600)"}).encode()
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = f"POST /execute HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    connection.sendall((head + "\r\n".join(lines) + "\r\n\r\n").encode() + body)
    while b'"on' not in connection.recv(65536):
        pass
    connection.close()
    assert run("x + 1")[1]["text"] == "2"
    assert box.kill() == 204
