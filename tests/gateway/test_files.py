"""Files of a sandbox: what is read, what a write leaves of the file it replaces, the paths that are
returned, and the events that a watcher gets."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from typing import Any
from urllib.parse import quote

import pytest

from harness.gateway.gateway_process import GatewayProcess
from tests.gateway.client import Box, envelope

ROOT = {"Authorization": "Basic " + base64.b64encode(b"root:").decode()}
PIECE = 60 * 1024
ROUNDS = 12
"""Of what went wrong in a quarter of the tries."""


def read(box: Box, path: str, **more: str) -> tuple[int, bytes]:
    return box.served.request("GET", f"/files?path={quote(path)}", None, box.headers(**more))


def write(box: Box, path: str, data: bytes, **more: str) -> tuple[int, Any]:
    headers = box.headers(**{"Content-Type": "application/octet-stream"}, **more)
    status, answer = box.served.request("POST", f"/files?path={quote(path)}", data, headers)
    return status, json.loads(answer)


def as_root(box: Box, command: str) -> tuple[str, int]:
    with box.start(command, **ROOT) as stream:
        return stream.result()


@pytest.mark.parametrize(
    ("path", "pieces"),
    [
        ("/proc/version", 0),
        ("/sys/kernel/mm/transparent_hugepage/enabled", 0),
        ("/sys/block/vda/size", 0),
        ("/dev/null", 0),
        ("/proc/kallsyms", 10),  # read in pieces of a page
    ],
)
def test_files_whose_size_is_wrong_are_read_to_their_end(box: Box, path: str, pieces: int) -> None:
    if as_root(box, f"test -e {path}")[1]:
        pytest.skip("this guest's kernel has no such file, as a slim one")
    status, data = read(box, path, **ROOT)
    assert status == 200
    expected = as_root(box, f"sha256sum < {path}")[0].split()[0]
    assert hashlib.sha256(data).hexdigest() == expected
    assert len(data) >= pieces * PIECE


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE, 1_000_000])
def test_files_of_every_size_come_back(box: Box, size: int) -> None:
    data = (b"0123456789abcde" * (size // 15 + 1))[:size]
    assert write(box, "sized", data)[0] == 200
    assert read(box, "sized") == (200, data)
    assert write(box, "sized", data[::-1])[0] == 200  # now it exists
    assert read(box, "sized") == (200, data[::-1])


def test_a_write_keeps_the_inode_and_what_belongs_to_it(box: Box) -> None:
    made = as_root(
        box,
        "cd /home/user; echo old, and longer than the new > kept; ln kept hard; ln -s kept soft;"
        "chown daemon:user kept; chmod 664 kept; stat -c '%i %h %U %G %a' kept",
    )
    assert made[1] == 0
    for path in ("kept", "soft", "hard"):
        text = f"new by {path}\n"
        assert write(box, path, text.encode())[0] == 200
        stat = "stat -c '%i %h %U %G %a' kept; cat hard"
        assert box.run(stat)[0] == made[0] + text
    assert box.run("test -L soft")[1] == 0
    # A program that has it open sees the new content.
    with box.start("exec 3< kept; echo open; while ! test -e go; do sleep 0.1; done; cat <&3") as s:
        messages = s.messages()
        next(messages)
        next(messages)
        assert write(box, "kept", b"seen\n")[0] == 200
        box.run("touch go")
        rest = [body["event"]["data"] for _, body in messages if "data" in body.get("event", {})]
        assert [base64.b64decode(data["stdout"]) for data in rest] == [b"seen\n"]
    # Mount points, too.
    assert write(box, "/etc/hostname", b"renamed\n", **ROOT)[0] == 200
    assert box.run("cat /etc/hostname")[0] == "renamed\n"
    assert write(box, "kept", b"")[0] == 200
    assert box.run("stat -c %s kept")[0] == "0\n"


def test_what_does_not_fit_leaves_the_old_content(served: GatewayProcess) -> None:
    box = Box.create(served)
    old = b"precious" * 500_000
    assert write(box, "old", old)[0] == 200
    free = int(box.run("df --output=avail -k / | tail -1")[0])
    assert box.run(f"fallocate -l {free - 2000}K filler")[1] == 0
    digest = hashlib.sha256(old).hexdigest()
    status, answer = write(box, "old", bytes(16 << 20))
    assert (status, answer["code"]) == (507, 507)
    assert box.run("sha256sum < old")[0].split()[0] == digest
    # What it frees counts.
    assert write(box, "old", bytes(5 << 20))[0] == 200
    assert box.run("stat -c %s old")[0] == f"{5 << 20}\n"
    # Of unknown length: the failure is reported, and the file holds what was written.
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        lines = [f"{name}: {value}" for name, value in box.headers().items()]
        head = "POST /files?path=old HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        kind = "Content-Type: application/octet-stream\r\n"
        connection.sendall((head + kind + "\r\n".join(lines) + "\r\n\r\n").encode())
        chunk = b"%x\r\n" % (1 << 20) + bytes(1 << 20) + b"\r\n"
        for _ in range(16):
            connection.sendall(chunk)
        connection.sendall(b"0\r\n\r\n")
        assert b" 507 " in connection.recv(4096).split(b"\r\n")[0]
    assert 0 < int(box.run("stat -c %s old")[0]) < 16 << 20
    assert box.kill() == 204


def test_paths_are_returned_absolute_and_normalised(box: Box) -> None:
    for given, path in (
        ("p/q", "/home/user/p/q"),
        ("./p//../p/./q/", "/home/user/p/q"),
        ("~/p/q", "/home/user/p/q"),
        ("/tmp/../home/user/p/q", "/home/user/p/q"),
        ("../../../tmp/q", "/tmp/q"),
    ):
        assert write(box, given, b"x") == (200, [{"path": path, "name": "q", "type": "file"}])
        entry = box.rpc("filesystem.Filesystem/Stat", {"path": given})[1]["entry"]
        assert (entry["path"], entry["name"]) == (path, "q")
    for given, prefix in ((".", "/home/user/"), ("p/.", "/home/user/p/"), ("/tmp/..", "/")):
        entries = box.rpc("filesystem.Filesystem/ListDir", {"path": given})[1]["entries"]
        assert entries
        assert all(entry["path"] == prefix + entry["name"] for entry in entries)
    moved = {"source": "./p/q", "destination": "p/../moved"}
    entry = box.rpc("filesystem.Filesystem/Move", moved)[1]["entry"]
    assert (entry["path"], entry["name"]) == ("/home/user/moved", "moved")
    form = b"--b\r\nContent-Disposition: form-data; name=file; filename=./f\r\n\r\nx\r\n--b--\r\n"
    headers = box.headers(**{"Content-Type": "multipart/form-data; boundary=b"})
    answer = box.served.request("POST", "/files", form, headers)
    assert json.loads(answer[1])[0]["path"] == "/home/user/f"
    process = {"cmd": "/bin/pwd", "cwd": "./p/.."}
    with box.begin(envelope({"process": process, "stdin": False})) as stream:
        assert stream.result()[0] == "/home/user\n"


def test_a_watcher_s_events_are_there_once_the_write_is_answered(box: Box) -> None:
    assert box.run("mkdir -p seen")[1] == 0
    body = {"path": "seen", "recursive": True}
    watcher = box.rpc("filesystem.Filesystem/CreateWatcher", body)[1]

    def events() -> list[tuple[str, str]]:
        fetched = box.rpc("filesystem.Filesystem/GetWatcherEvents", watcher)[1]["events"]
        return [(event["name"], event["type"]) for event in fetched]

    for number in range(ROUNDS):
        assert write(box, f"seen/{number}", b"new")[0] == 200
        got = events()
        assert (f"{number}", "EVENT_TYPE_CREATE") in got, number
        assert (f"{number}", "EVENT_TYPE_WRITE") in got, number
        assert write(box, f"seen/{number}", b"again")[0] == 200
        assert {kind for _, kind in events()} == {"EVENT_TYPE_WRITE"}
        assert box.run(f"mkdir -p seen/d{number}/e; touch seen/d{number}/e/f")[1] == 0
        names = [name for name, kind in events() if kind == "EVENT_TYPE_CREATE"]
        assert {f"d{number}", f"d{number}/e", f"d{number}/e/f"} <= {*names}
    assert box.rpc("filesystem.Filesystem/RemoveWatcher", watcher)[0] == 200
