"""Interpreters that end: the caller is told, and the context is started again with its id."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import threading
from collections.abc import Iterator

import pytest

from harness.gateway.gateway_process import GatewayProcess, running_gateway
from harness.host.run import Run
from tests.gateway.cells import Line, error, result, texts
from tests.gateway.client import INTERPRETER, Box, envelope
from tests.host.processes import eventually

JSON = {"Content-Type": "application/json"}
KILL_IDLE = (
    "for at in /proc/[0-9]*; do"
    " if tr '\\0' ' ' < $at/cmdline | grep -q '^/usr/bin/python3 .*coppice/interpreter';"
    " then kill -9 ${at#/proc/}; fi; done"
)
"""Kills the interpreters of a sandbox from outside of them."""


@pytest.fixture(scope="module")
def containers(run: Run, possible: None) -> Iterator[GatewayProcess]:
    with running_gateway(run, "--substrate", "oci", "--pool", "1") as process:
        process.wait_for_pool("code-interpreter-v1", 1)
        yield process


@pytest.fixture(scope="module")
def box(containers: GatewayProcess) -> Iterator[Box]:
    created = Box.create(containers, "code-interpreter-v1", timeout=600)
    yield created
    assert containers.process
    if containers.process.poll() is None:  # the last test ends the gateway
        created.kill()


def interpret(box: Box, method: str, path: str, body: object = None) -> bytes:
    status, data = box.served.request(method, path, body, box.headers(INTERPRETER, **JSON))
    assert status in (200, 204), data
    return data


def cell(box: Box, code: str, context: str | None = None) -> list[Line]:
    body = {"code": code, "context_id": context}
    return [json.loads(line) for line in interpret(box, "POST", "/execute", body).splitlines()]


@contextlib.contextmanager
def leaving(box: Box, code: str, context: str = "default") -> Iterator[None]:
    """Send a cell and leave at the end of the block."""
    connection = http.client.HTTPConnection("127.0.0.1", box.served.port, timeout=120)
    body = json.dumps({"code": code, "context_id": context})
    connection.request("POST", "/execute", body, box.headers(INTERPRETER, **JSON))
    try:
        yield
    finally:
        connection.close()


def new_context(box: Box, cwd: str = "") -> str:
    id: str = json.loads(interpret(box, "POST", "/contexts", {"cwd": cwd}))["id"]
    return id


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os; os._exit(1)", "exit code 1"),
        ("import ctypes; ctypes.string_at(0)", "signal 11"),
        ("grown = []\nwhile True: grown.append(b'x' * 10_000_000)", "signal 9"),
        ("import os, sys\nsys.stdout = None\nos.abort()", "signal 6"),
        ("import os\nos.execv('/bin/false', ['false'])", "exit code 1"),
    ],
)
def test_a_crash_is_an_error_and_the_context_lives_on(box: Box, code: str, how: str) -> None:
    cell(box, "kept = 1\n%cd /usr")
    lines = cell(box, f"print('before')\n{code}")
    assert texts(lines) == "before\n"
    crashed = error(lines)
    assert crashed and crashed["name"] == "ContextRestarting" and how in crashed["value"]
    assert lines[-1] == {"type": "end_of_execution"}
    again = cell(box, "import os\nos.getcwd(), 'kept' in dir()")
    assert again[0]["execution_count"] == 1
    assert result(again)["text"] == "('/home/user', False)"


def test_a_context_that_crashes_keeps_its_id_and_directory(box: Box) -> None:
    other = new_context(box, "/tmp")
    cell(box, "kept = 1\n%cd /usr", other)
    assert error(cell(box, "import os; os._exit(1)", other))
    assert result(cell(box, "import os\nos.getcwd()", other))["text"] == "/tmp"
    assert {"id": other, "language": "python", "cwd": "/tmp"} in json.loads(
        interpret(box, "GET", "/contexts")
    )
    interpret(box, "DELETE", f"/contexts/{other}")


@pytest.mark.parametrize(
    ("directory", "errno"),
    [
        ("/nothing", "ENOENT"),
        ("/etc/hosts", "ENOTDIR"),
        ("/proc/1/fd/x", "EACCES"),
        ("/home/user/x", "ENOENT"),
    ],
)
def test_a_directory_that_cannot_be_entered_is_named(box: Box, directory: str, errno: str) -> None:
    headers = box.headers(INTERPRETER, **JSON)
    status, data = box.served.request("POST", "/contexts", {"cwd": directory}, headers)
    text = json.loads(data)["message"]
    assert status == 400 and directory in text and errno in text
    process = {"process": {"cmd": "/bin/true", "cwd": directory}}
    with box.begin(envelope(process)) as stream:
        refused = stream.error()
    assert refused["code"] == "invalid_argument"
    assert directory in refused["message"] and errno in refused["message"]


def test_output_before_a_crash_is_whole_lines(box: Box) -> None:
    code = """
import os, threading
def write():
    while True: print('x' * 5000)
for _ in range(4): threading.Thread(target=write, daemon=True).start()
threading.Timer(0.3, os._exit, (1,)).start()
threading.Event().wait()
"""
    lines = cell(box, code)
    assert error(lines) and set("".join(texts(lines).split("\n"))) == {"x"}
    assert result(cell(box, "1+1"))["text"] == "2"


def test_contexts_that_end_between_cells_are_started_again(box: Box) -> None:
    other = new_context(box, "/tmp")
    for context in (None, other):
        cell(box, "kept = 1", context)
    assert box.run(KILL_IDLE)[1] == 0
    interpreters = "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c '^/.*coppice/interpreter'"
    eventually(lambda: box.run(interpreters)[0] == "2\n", 60)  # before anyone asks
    for context, cwd in ((None, "/home/user"), (other, "/tmp")):
        lines = cell(box, "import os\nos.getcwd(), 'kept' in dir()", context)
        assert result(lines)["text"] == f"('{cwd}', False)"
        assert "Context was restarted: the interpreter ended with signal 9" in (
            texts(lines, "stderr")
        )
    interpret(box, "DELETE", f"/contexts/{other}")


def test_an_interpreter_that_ends_before_anything_else_is_started_again(
    containers: GatewayProcess,
) -> None:
    containers.wait_for_pool("code-interpreter-v1", 1)
    created = Box.create(containers, "code-interpreter-v1")
    assert created.run(KILL_IDLE)[1] == 0
    assert result(cell(created, "1+1"))["text"] == "2"
    assert created.kill() == 204


def test_cells_that_wait_behind_one_that_crashes_run(box: Box) -> None:
    cell(box, "import time")
    crash = "print('on', flush=True)\ntime.sleep(1)\nimport os\nos._exit(1)"
    answers: dict[str, list[Line]] = {}

    def run(name: str, code: str) -> None:
        answers[name] = cell(box, code)

    threads = [threading.Thread(target=run, args=("crash", crash))]
    threads += [threading.Thread(target=run, args=(str(n), f"{n} + 1")) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    crashed = error(answers.pop("crash"))
    assert crashed and crashed["name"] == "ContextRestarting"
    for name, lines in answers.items():
        assert result(lines)["text"] == str(int(name) + 1)


def test_a_context_that_ended_can_be_restarted_and_removed(box: Box) -> None:
    other = new_context(box, "/tmp")
    for context in ("default", other):
        assert error(cell(box, "import os; os._exit(1)", context))
        interpret(box, "POST", f"/contexts/{context}/restart")
        assert result(cell(box, "1+1", context))["text"] == "2"
    assert error(cell(box, "import os; os._exit(1)", other))
    interpret(box, "DELETE", f"/contexts/{other}")
    ids = [context["id"] for context in json.loads(interpret(box, "GET", "/contexts"))]
    assert ids == ["default"]
    body = {"code": "1", "context_id": other}
    headers = box.headers(INTERPRETER, **JSON)
    assert box.served.request("POST", "/execute", body, headers)[0] == 404


STUCK = {
    "ignores": "signal.signal(signal.SIGINT, signal.SIG_IGN)\non()\ntime.sleep(600)",
    "blocks": "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGURG])\n"
    "on()\ntime.sleep(600)",
    "goes-on": "on()\nwhile True:\n    try: time.sleep(600)\n    except BaseException: pass",
    "stops": "on()\nos.kill(os.getpid(), signal.SIGSTOP)",
    "left-its-group": "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "import subprocess\nsubprocess.Popen(['sleep', '600'])\n"
    "leader = subprocess.Popen(['sleep', '600'], process_group=0)\n"
    "os.setpgid(0, leader.pid)\non()\ntime.sleep(600)",
}
"""Cells that an interrupt does not end."""


def test_a_cell_that_does_not_end_when_its_caller_leaves_is_ended(box: Box) -> None:
    contexts = {name: new_context(box) for name in STUCK}
    for name, code in STUCK.items():
        on = "def on(): open('/tmp/on', 'w').close()"
        cell(box, f"import os, signal, time\n{on}\nkept = 1", contexts[name])
        with leaving(box, code, contexts[name]):
            eventually(lambda: box.run("rm /tmp/on")[1] == 0, 60)
        assert result(cell(box, "1+1"))["text"] == "2"  # other contexts go on
    for context in contexts.values():
        lines = cell(box, "'kept' in dir()", context)
        assert "an interrupted cell had not ended after 5 s" in texts(lines, "stderr")
        assert lines[0]["execution_count"] == 1 and result(lines)["text"] == "False"
        assert texts(cell(box, "1+1", context), "stderr") == ""  # told once
        interpret(box, "DELETE", f"/contexts/{context}")


def test_a_cell_whose_caller_left_before_it_began_is_ended(box: Box) -> None:
    other = new_context(box)
    cell(box, "import os, time\nkept = 1", other)
    waits = "open('/tmp/on', 'w').close()\nwhile not os.path.exists('/tmp/go'): time.sleep(0.01)"
    first = threading.Thread(target=cell, args=(box, waits, other))
    first.start()
    eventually(lambda: box.run("rm /tmp/on")[1] == 0, 60)
    with leaving(box, "time.sleep(600)", other):
        pass
    assert box.run("touch /tmp/go")[1] == 0
    first.join()
    assert result(cell(box, "kept", other))["text"] == "1"
    interpret(box, "DELETE", f"/contexts/{other}")


def test_a_caller_who_leaves_while_a_long_cell_is_sent_cuts_nothing_off(box: Box) -> None:
    other = new_context(box)
    cell(box, "import os, time\nkept = 1", other)
    waits = "open('/tmp/on', 'w').close()\nwhile not os.path.exists('/tmp/go'): time.sleep(0.01)"
    first = threading.Thread(target=cell, args=(box, waits, other))
    box.run("rm -f /tmp/go")
    first.start()
    eventually(lambda: box.run("rm /tmp/on")[1] == 0, 60)
    long = f"long = '{'x' * 3_000_000}'"  # more than fits where it waits
    with leaving(box, long, other):
        pass
    answers: list[list[Line]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(cell(box, f"{long}\nlen(long)", other)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    assert box.run("touch /tmp/go")[1] == 0
    for thread in (first, *threads):
        thread.join()
    assert [result(lines)["text"] for lines in answers] == ["3000000"] * 2
    assert result(cell(box, "kept", other))["text"] == "1"
    interpret(box, "DELETE", f"/contexts/{other}")


@pytest.mark.parametrize("how", ["restart", "remove"])
def test_a_running_cell_is_told_that_its_context_ends(box: Box, how: str) -> None:
    other = new_context(box)
    told: list[Line] = []
    code = "open('/tmp/on', 'w').close()\nimport time; time.sleep(600)"
    thread = threading.Thread(target=lambda: told.extend(cell(box, code, other)))
    thread.start()
    eventually(lambda: box.run("rm /tmp/on")[1] == 0, 60)
    if how == "restart":
        interpret(box, "POST", f"/contexts/{other}/restart")
        assert result(cell(box, "1+1", other))["text"] == "2"
    interpret(box, "DELETE", f"/contexts/{other}")
    thread.join()
    ended = error(told)
    assert ended and ended["name"] == "ContextRestarting"


def test_an_interpreter_that_cannot_start_is_an_error_each_time(
    containers: GatewayProcess,
) -> None:
    created = Box.create(containers, "code-interpreter-v1")
    site = "$HOME/.local/lib/python3.*/site-packages"
    place = "$HOME/.local/lib/$(basename /usr/lib/python3.[0-9]*)/site-packages"
    broken = f"mkdir -p {place}; echo 'import os; os._exit(9)' > {place}/usercustomize.py"
    assert created.run(broken)[1] == 0
    crashed = error(cell(created, "import os; os._exit(1)"))
    assert crashed and crashed["name"] == "ContextRestarting"
    headers = created.headers(INTERPRETER, **JSON)
    for _ in range(2):
        status, data = created.served.request("POST", "/execute", {"code": "1"}, headers)
        assert status == 500 and "exit code 9" in json.loads(data)["message"]
    assert created.run(f"rm {site}/usercustomize.py")[1] == 0
    assert result(cell(created, "1+1"))["text"] == "2"
    assert created.kill() == 204


def test_a_crash_in_a_microvm_leaves_the_context(served: GatewayProcess) -> None:
    created = Box.create(served, "code-interpreter-v1")
    crashed = error(cell(created, "import os; os._exit(1)"))
    assert crashed and crashed["name"] == "ContextRestarting"
    assert result(cell(created, "1+1"))["text"] == "2"
    assert created.kill() == 204


def test_an_interrupt_ends_the_gateway_while_cells_are_stuck(containers: GatewayProcess) -> None:
    # The last test of this gateway: another one would take long to start.
    created = Box.create(containers, "code-interpreter-v1")
    on = "open('/tmp/on', 'w').close()"
    with (
        leaving(created, f"import signal, time\n{on}\n{STUCK['ignores'].replace('on()', '')}"),
        created.start("sleep 600"),
    ):
        eventually(lambda: created.run("rm /tmp/on")[1] == 0, 60)
        with leaving(created, "1+1"):  # it waits in line
            assert containers.process
            containers.process.send_signal(signal.SIGINT)
            assert containers.process.wait(60) == 130
    lines = [line for line in containers.log_tail().splitlines() if not line.startswith("{")]
    assert lines == ["coppice: interrupted"]
