"""The `Host` interface behaves the same on this machine and behind a real sshd."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from psutil import process_iter as processes

from harness.errors import CommandFailed, DiskFull, GuestTimeout, HostLost, MissingTool
from harness.host import evidence
from harness.host.local import LocalHost
from harness.host.protocol import Host, HostProcess, must
from harness.host.run import Run
from harness.host.session import open_run
from harness.remote.ssh import SshHost, open_ssh
from harness.remote.ssh_connection import Address
from tests.host.processes import ROOT, eventually
from tests.remote.server import THERE, Server


@pytest.fixture
def own_run(tmp_path: Path) -> Iterator[Run]:
    with open_run(tmp_path / "runs") as opened:
        yield opened


@pytest.fixture(params=["local", "ssh", "ssh without Python"])
def host(request: pytest.FixtureRequest, own_run: Run) -> Iterator[Host]:
    if request.param == "local":
        yield LocalHost(own_run)
        return
    with open_ssh(own_run, Address.parse(THERE)) as opened:
        if request.param == "ssh without Python":
            opened.python = None
            opened._now, opened.clock = "cut -d' ' -f1 /proc/uptime", "/proc/uptime, 10 ms"
        yield opened
    assert not Path(opened.directory).exists()


def test_a_program_gets_its_argv_and_stdin_and_returns_its_exit_code(host: Host) -> None:
    done = host.run(["sh", "-c", 'cat; printf "%s|" "$@" >&2; exit 3', "x", "a b", "$HOME", "'"],
                    stdin=b"in\0put\n")  # fmt: skip
    assert (done.code, done.stdout, done.stderr) == (3, b"in\0put\n", b"a b|$HOME|'|")


def test_times_are_of_the_hosts_monotonic_clock(host: Host) -> None:
    first = host.run(["sleep", "0.2"])
    second = host.run(["true"])
    assert 0.17 < first.ended - first.started < 60
    assert first.ended <= second.started <= second.ended
    assert host.clock


def test_a_failed_program_that_must_succeed_raises_with_its_reason(host: Host) -> None:
    with pytest.raises(
        CommandFailed, match=r"cat /nowhere on .* exited with 1: .*No such file"
    ) as e:
        must(host, ["cat", "/nowhere"])
    assert e.value.code == 1
    with pytest.raises(MissingTool, match="no-such-program is not installed"):
        must(host, ["no-such-program"])
    with pytest.raises(GuestTimeout):
        host.run(["sleep", "20"], timeout_s=0.3)


def test_files_are_written_and_read(host: Host, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    path = f"{host.directory}/a directory/it's a file"
    host.put(content, path, 0o755)
    assert host.get(path) == content and os.access(path, os.X_OK)
    (tmp_path / "source").write_bytes(b"other")
    host.put(tmp_path / "source", path)
    assert host.get(path) == b"other"
    assert [one.name for one in Path(path).parent.iterdir()] == ["it's a file"]
    with pytest.raises(CommandFailed):
        host.get(path + "-not")


def test_a_full_disk_leaves_no_partial_file(host: Host, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    try:
        host.put(b"kept", f"{disk}/file")
        with pytest.raises(DiskFull):
            host.put(bytes(1 << 20), f"{disk}/file")
        assert host.get(f"{disk}/file") == b"kept"
        assert [one.name for one in disk.iterdir()] == ["file"]
    finally:
        subprocess.run(["umount", disk], check=True)


def _read(process: HostProcess, count: int) -> bytes:
    process.channel.settimeout(60)
    got = b""
    while len(got) < count:
        piece = process.channel.recv(100)
        assert piece
        got += piece
    return got


def test_a_started_process_outlives_the_call_and_has_a_channel(host: Host) -> None:
    process = host.start(["sh", "-c", "echo begun >&2; echo $NAME; exec cat"], "one", {"NAME": "x"})
    try:
        process.channel.sendall(b"hello\0")
        assert _read(process, 8) == b"x\nhello\0"
        assert process.poll() is None and process.error_text() == "begun"
        host.signal(process, signal.SIGSTOP)
        eventually(lambda: _state(process.pid) == "T")
        process.channel.sendall(b"after")
        host.signal(process, signal.SIGCONT)
        assert _read(process, 5) == b"after"
    finally:
        process.end()
    process.end()
    eventually(lambda: not Path(f"/proc/{process.pid}").exists())


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


def test_the_exit_code_and_stderr_of_a_process_are_reported(host: Host) -> None:
    process = host.start(["sh", "-c", "echo why >&2; exit 7"], "two")
    eventually(lambda: process.poll() is not None)
    assert process.poll() == 7 and process.error_text() == "why"
    host.signal(process, signal.SIGCONT)  # nothing happens
    process.end()
    eventually(
        lambda: not _naming(f"{host.directory}/two.")
    )  # the process behind its channel ends too


def _naming(path: str) -> list[int]:
    """PIDs of processes with this path in an argument."""
    found = processes(["pid", "cmdline"])
    return [
        process.pid
        for process in found
        if process.pid != os.getpid() and any(path in arg for arg in process.info["cmdline"] or ())
    ]


def test_the_log_of_a_process_that_ended_by_itself_is_handed_over(host: Host) -> None:
    with evidence.collect() as held:
        process = host.start(["sh", "-c", "echo why >&2; exit 7"], "ends")
        eventually(lambda: process.poll() is not None)
        process.end()
        files = dict(held.take())
    assert list(files) == ["ends.log"]
    assert files["ends.log"].startswith(b"why\n") and b"exit code 7" in files["ends.log"]


def test_started_processes_end_with_the_connection(server: Server, own_run: Run) -> None:
    with open_ssh(own_run, Address.parse(THERE)) as host:
        process = host.start(["sleep", "600"], "long")
        assert Path(host.directory).exists()
        with pytest.raises(HostLost, match="clean"):
            server.drop()
            eventually(lambda: not host.connection.is_alive)
            host.run(["true"])
        eventually(lambda: not Path(host.directory).exists())
        eventually(lambda: not Path(f"/proc/{process.pid}").exists())
        process.end()


def test_a_connection_that_ends_during_a_command_raises(server: Server, own_run: Run) -> None:
    # A unique duration: a process of an earlier test's lost connection may still sleep.
    argv = ["sleep", f"3.{secrets.randbelow(10**9):09}e3"]
    with open_ssh(own_run, Address.parse(THERE)) as host:

        def drop() -> None:
            # The program itself must run, not just the client that will request it.
            eventually(lambda: argv in [found.info["cmdline"] for found in processes(["cmdline"])])
            server.drop()

        dropping = threading.Thread(target=drop)
        dropping.start()
        with pytest.raises(HostLost, match=f"while running: {' '.join(argv)}"):
            host.run(argv)
        dropping.join()


def test_many_commands_share_one_connection(server: Server, own_run: Run) -> None:
    with open_ssh(own_run, Address.parse(THERE)) as host:
        assert isinstance(host, SshHost)
        for number in range(5):
            assert host.run(["echo", str(number)]).text == str(number)
            assert len(server.sessions()) == 1
    eventually(lambda: server.sessions() == [])


def test_the_command_log_has_what_the_user_would_type(server: Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = f"""
from harness import command_log
from harness.host.session import open_run
from harness.remote.ssh import open_ssh
from harness.remote.ssh_connection import Address
command_log.start({str(log)!r})
with open_run() as run, open_ssh(run, Address.parse({THERE!r})) as host:
    host.run(["echo", "two words", "it's"])
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    (line,) = [
        one
        for one in log.read_text(encoding="utf-8").splitlines()
        if "echo" in one and "two words" in one
    ]
    pasted = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert pasted.stdout == "two words it's\n"
