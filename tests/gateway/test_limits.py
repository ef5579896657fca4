"""What Linux accepts passes; what it refuses is an error with its name."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

import pytest

from harness.gateway.gateway_process import GatewayProcess
from tests.gateway.client import Box, envelope

ROOT = {"Authorization": "Basic " + base64.b64encode(b"root:").decode()}
ARGUMENT = 131071
"""Bytes of the longest argument; the sum of all may be 2 MiB."""


def start(*argv: str, **more: Any) -> bytes:
    process = {"cmd": argv[0], "args": argv[1:], **more}
    return envelope({"process": process, "stdin": False})


def run(box: Box, data: bytes, **headers: str) -> tuple[str, int]:
    with box.begin(data, **headers) as stream:
        return stream.result()


def error(box: Box, data: bytes) -> tuple[str, str]:
    with box.begin(data) as stream:
        found = stream.error()
        return found["code"], found["message"]


def test_arguments_may_be_as_long_and_many_as_linux_allows(box: Box) -> None:
    size = ("/bin/sh", "-c", "n=0; for a; do n=$((n + ${#a})); done; echo $# $n", "-")
    for count, length in ((1, ARGUMENT), (15, 131000), (60_000, 20)):
        assert run(box, start(*size, *["x" * length] * count)) == (f"{count} {count * length}\n", 0)
    comment = "echo well #" + "x" * (ARGUMENT - 11)
    assert run(box, start("/bin/bash", "-l", "-c", comment)) == ("well\n", 0)
    for arguments in (["x" * (ARGUMENT + 1)], ["x" * ARGUMENT] * 17, ["x" * ARGUMENT] * 70):
        code, message = error(box, start("/bin/echo", *arguments))
        assert code == "invalid_argument" and "E2BIG" in message
    assert box.run("echo well") == ("well\n", 0)
    with box.start("sleep 600 #" + "x" * 100_000) as stream:
        pid = next(stream.messages())[1]["event"]["start"]["pid"]
        listed = box.rpc("process.Process/List", {})[1]["processes"]
        (mine,) = [process for process in listed if process["pid"] == pid]
        assert len(mine["config"]["args"][-1]) > 100_000
        box.rpc("process.Process/SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})


def test_so_may_variables(served: GatewayProcess) -> None:
    variables = {f"V{number}": "v" * 4000 for number in range(200)} | {"LONG": "x" * 131000}
    box = Box.create(served, envVars=variables)
    assert box.run("echo ${#LONG} ${#V199}") == ("131000 4000\n", 0)
    more = {"MORE": "y" * (ARGUMENT - 5), "LONG": "short"}
    assert run(box, start("/bin/sh", "-c", "echo ${#MORE} $LONG", envs=more)) == (
        f"{ARGUMENT - 5} short\n",
        0,
    )
    code, message = error(box, start("/bin/true", envs={"MORE": "y" * (ARGUMENT - 4)}))
    assert code == "invalid_argument" and "E2BIG" in message
    assert box.kill() == 204
    json_type = {"Content-Type": "application/json"}
    for envs, name in (
        ({"LONG": "x" * ARGUMENT}, "E2BIG"),
        ({f"V{number}": "v" * 100_000 for number in range(22)}, "E2BIG"),
        ({"A": "\0"}, "EINVAL"),
    ):
        body = {"templateID": "base", "envVars": envs}
        status, data = served.request("POST", "/v2/sandboxes", body, json_type)
        assert status == 400 and name in json.loads(data)["message"], data


def test_paths_and_names_may_be_as_long_as_linux_allows(box: Box) -> None:
    headers = box.headers(**{"Content-Type": "application/octet-stream"})

    def write(path: str) -> tuple[int, Any]:
        status, data = box.served.request("POST", f"/files?path={quote(path)}", b"x", headers)
        return status, json.loads(data)

    def read(path: str) -> int:
        return box.served.request("GET", f"/files?path={quote(path)}", None, headers)[0]

    names = "/".join(["d" * 250] * 16)
    longest = f"/tmp/{names}/" + "f" * (4095 - len(f"/tmp/{names}/"))
    assert len(longest) == 4095
    for path in (longest, "/tmp/" + "n" * 255, "/tmp/" + "é" * 127):
        assert write(path) == (
            200,
            [{"path": path, "name": path.rpartition("/")[2], "type": "file"}],
        )
        assert read(path) == 200
        status, answer = box.rpc("filesystem.Filesystem/Stat", {"path": path})
        assert status == 200 and answer["entry"]["path"] == path
    for path in (longest + "f", "/tmp/" + "n" * 256, "/" + "d/" * 100_000, "x" * 4095):
        if len(path) < 10_000:
            status, answer = write(path)
            assert status == 400 and "ENAMETOOLONG" in answer["message"], answer
            assert read(path) == 400
        for method in ("Stat", "MakeDir", "ListDir"):
            status, answer = box.rpc(f"filesystem.Filesystem/{method}", {"path": path})
            assert status == 400 and "ENAMETOOLONG" in answer["message"], (method, answer)
    code, message = error(box, start("/bin/true", cwd="/" + "d" * 5000))
    assert code == "invalid_argument" and "ENAMETOOLONG" in message
    assert box.rpc("filesystem.Filesystem/Remove", {"path": "/tmp/" + "d" * 250})[0] == 200


def test_a_directory_is_listed_completely_or_with_an_error(box: Box) -> None:
    made = "mkdir many; cd many; seq -f 'entry-%05g' 20500 | xargs touch; ls -f | wc -l"
    assert box.run(made)[0] == "20502\n"
    entries = box.rpc("filesystem.Filesystem/ListDir", {"path": "many"})[1]["entries"]
    assert [entry["name"] for entry in entries] == [f"entry-{n:05}" for n in range(1, 20501)]
    deep = "/".join(["d" * 250] * 16)
    assert box.run(f"mkdir -p {deep}; cd {deep}; seq 4200 | xargs touch")[1] == 0
    status, answer = box.rpc("filesystem.Filesystem/ListDir", {"path": deep})
    assert status == 429 and "EOVERFLOW" in answer["message"]
    assert box.run(f"cd {deep}; seq 201 4200 | xargs rm")[1] == 0
    assert len(box.rpc("filesystem.Filesystem/ListDir", {"path": deep})[1]["entries"]) == 200


@pytest.mark.parametrize(
    ("columns", "works"), [(1, True), (65535, True), (65536, False), (-1, False)]
)
def test_terminals_have_any_size_that_linux_has(box: Box, columns: int, works: bool) -> None:
    process = {"cmd": "/bin/stty", "args": ["size"]}
    size = {"cols": columns, "rows": 7}
    data = envelope({"process": process, "pty": {"size": size}})
    if works:
        assert run(box, data)[0].split() == ["7", str(columns)]
    else:
        assert error(box, data)[0] == "invalid_argument"


def test_input_may_be_longer_than_a_frame_and_a_buffer(box: Box) -> None:
    process = {"cmd": "/usr/bin/wc", "args": ["-c"]}
    with box.begin(envelope({"process": process, "stdin": True})) as stream:
        messages = stream.messages()
        selector = {"process": {"pid": next(messages)[1]["event"]["start"]["pid"]}}
        data = base64.b64encode(bytes(3_000_000)).decode()
        sent = box.rpc("process.Process/SendInput", {**selector, "input": {"stdin": data}})
        assert sent[0] == 200
        assert box.rpc("process.Process/CloseStdin", selector)[0] == 200
        output = next(messages)[1]["event"]["data"]["stdout"]
        assert base64.b64decode(output) == b"3000000\n"


def test_users_may_have_long_names_and_many_groups(box: Box) -> None:
    name, home = "n" * 100, "/home/" + "h" * 200 + "/" + "i" * 200
    groups = "\\n".join(f"g{number}:x:{3000 + number}:{name}" for number in range(60))
    made = (
        f"mkdir -p {home}; echo '{name}:x:2000:2000::{home}:/bin/bash' >> /etc/passwd;"
        f"printf '{groups}\\n' >> /etc/group; chown 2000 {home}"
    )
    assert run(box, start("/bin/bash", "-c", made), **ROOT)[1] == 0
    user = {"Authorization": f"Basic {base64.b64encode(name.encode() + b':').decode()}"}
    output, code = run(box, start("/bin/bash", "-c", "id -un; id -G; pwd; echo $HOME"), **user)
    lines = output.splitlines()
    assert (lines[0], lines[2], lines[3], code) == (name, home, home, 0)
    assert len(lines[1].split()) == 61
