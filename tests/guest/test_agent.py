"""Every request of the agent, on one guest that was really booted."""

from __future__ import annotations

import errno
import os
import struct
import time
from pathlib import Path

import pytest

from harness.errors import GuestRefused
from harness.guest.agent_client import Agent, exec_fields
from harness.guest.protocol import Kind, Tag, encode, field
from harness.host.run import Run
from harness.sandbox.identity import allocate
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu.sandbox import QemuSandbox
from tests.guests import AWAKE_S, frames_until, launched

MIB = 1 << 20
CHILDREN_MAX = 32  # of agent.h
SHELL = ("/bin/sh", "-c")


def test_it_answers_a_nonce_again_and_again(agent: Agent) -> None:
    first, second = agent.ping(), agent.ping()
    assert 0 < first.monotonic_ns < second.monotonic_ns


def test_a_ping_sets_the_wall_clock_when_asked_to(agent: Agent) -> None:
    asked = 1_000_000_000 * 10**9
    assert 0 <= agent.ping(wall_ns=asked).wall_ns - asked < 10**9
    agent.set_wall_clock()
    assert abs(agent.ping().wall_ns - time.time_ns()) < 10**9


def test_hello_tells_of_a_kernel_that_is_not_ours(agent: Agent) -> None:
    told = agent.hello()
    assert told["protocol"] == "1"
    assert told["boot_id"] != Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert told["kernel"] == agent.run(("uname", "-r")).stdout.decode().strip()
    assert told["random"] != agent.hello()["random"]


def test_output_error_and_code_come_apart(agent: Agent) -> None:
    done = agent.run((*SHELL, "echo out; echo err >&2; exit 7"))
    assert (done.stdout, done.stderr, done.code, done.signal) == (b"out\n", b"err\n", 7, 0)


def test_output_is_streamed_while_the_process_lives(agent: Agent) -> None:
    pieces: list[tuple[float, Kind, bytes]] = []
    agent.run(
        (*SHELL, "echo first; sleep 1; echo second >&2"),
        on_output=lambda kind, data: pieces.append((time.monotonic(), kind, data)),
    )
    ended = time.monotonic()
    assert [piece[1:] for piece in pieces] == [
        (Kind.STDOUT, b"first\n"),
        (Kind.STDERR, b"second\n"),
    ]
    assert ended - pieces[0][0] > 0.8


@pytest.mark.parametrize("size", [0, 1, 4096, 65_000, 300 * 1024, MIB])
def test_stdin_comes_through_cat_unchanged(agent: Agent, size: int) -> None:
    data = os.urandom(size)
    done = agent.run(("cat",), stdin=data)
    assert done.stdout == data
    assert (done.code, done.stderr) == (0, b"")


def test_much_output_loses_nothing(agent: Agent) -> None:
    done = agent.run(("dd", "if=/dev/zero", "bs=64k", "count=64"))
    assert len(done.stdout) == 4 * MIB


def test_a_process_is_killed_at_its_limit(agent: Agent) -> None:
    start = time.monotonic()
    done = agent.run((*SHELL, "echo begun; sleep 60"), timeout_s=0.5)
    assert (done.signal, done.stdout) == (9, b"begun\n")
    assert 0.5 <= time.monotonic() - start < 4


def test_a_process_that_kills_itself_tells_its_signal(agent: Agent) -> None:
    done = agent.run((*SHELL, "kill -TERM $$"))
    assert (done.code, done.signal) == (0, 15)


def test_a_signal_reaches_a_running_process(agent: Agent, sandbox: QemuSandbox) -> None:
    id = agent.send(Kind.EXEC, exec_fields(("sleep", "60")))
    data = struct.pack("<I", 15)
    # A signal names the exec it is for by the frame's id; the client has no call for that.
    sandbox.vmm.agent.sendall(encode(Kind.SIGNAL, id, data))
    assert struct.unpack("<II", agent.receive(id, time.monotonic() + 5).payload) == (0, 15)


def test_an_unknown_program_is_refused(agent: Agent) -> None:
    with pytest.raises(GuestRefused, match="/bin/none") as refused:
        agent.run(("/bin/none",))
    assert refused.value.number == errno.ENOENT
    assert refused.value.exit_code == 76


def test_a_file_that_is_no_program_is_refused(agent: Agent) -> None:
    with pytest.raises(GuestRefused) as refused:
        agent.run(("/etc/passwd",))
    assert refused.value.number == errno.EACCES


def test_a_process_starts_in_the_folder_asked_for(agent: Agent) -> None:
    assert agent.run((*SHELL, "pwd"), cwd="/sys/kernel").stdout == b"/sys/kernel\n"
    with pytest.raises(GuestRefused) as refused:
        agent.run((*SHELL, "pwd"), cwd="/nowhere")
    assert refused.value.number == errno.ENOENT


def test_an_environment_given_is_the_whole_environment(agent: Agent) -> None:
    done = agent.run(("/bin/env",), env={"A": "1 = one", "B": ""})
    assert sorted(done.stdout.splitlines()) == [b"A=1 = one", b"B="]
    assert b"PATH=" in agent.run(("/bin/env",)).stdout


def test_a_file_of_a_mebibyte_comes_back(agent: Agent) -> None:
    data = os.urandom(MIB + 17)
    agent.write_file("/tmp/big", data, mode=0o640)
    assert agent.read_file("/tmp/big") == data
    assert agent.run(("ls", "-l", "/tmp/big")).stdout.startswith(b"-rw-r-----")


def test_a_file_written_again_is_replaced_whole(agent: Agent) -> None:
    agent.write_file("/tmp/again", b"a long first content")
    agent.write_file("/tmp/again", b"short")
    assert agent.read_file("/tmp/again") == b"short"
    agent.write_file("/tmp/again", b"")
    assert agent.read_file("/tmp/again") == b""


def test_a_file_of_exactly_one_piece_ends(agent: Agent) -> None:
    agent.write_file("/tmp/piece", bytes(32 * 1024))
    assert agent.read_file("/tmp/piece") == bytes(32 * 1024)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/none", errno.ENOENT),
        ("/etc", errno.EISDIR),
        ("", errno.EINVAL),
        ("/a" * 3000, errno.ENAMETOOLONG),
    ],
)
def test_what_cannot_be_read_is_refused(agent: Agent, path: str, number: int) -> None:
    with pytest.raises(GuestRefused) as refused:
        agent.read_file(path)
    assert refused.value.number == number


@pytest.mark.parametrize(
    ("path", "number"), [("/none/file", errno.ENOENT), ("/etc", errno.EISDIR), ("", errno.EINVAL)]
)
def test_what_cannot_be_written_is_refused(agent: Agent, path: str, number: int) -> None:
    with pytest.raises(GuestRefused) as refused:
        agent.write_file(path, b"data")
    assert refused.value.number == number


def test_a_full_file_system_of_the_guest_is_refused(agent: Agent) -> None:
    agent.run((*SHELL, "mkdir -p /tmp/small; mount -t tmpfs -o size=64k none /tmp/small"))
    with pytest.raises(GuestRefused) as refused:
        agent.write_file("/tmp/small/file", bytes(MIB))
    assert refused.value.number == errno.ENOSPC


def test_an_identity_is_seen_from_inside(agent: Agent, run: Run) -> None:
    identity = allocate(run.leases, run.id)
    try:
        agent.take_identity(identity)
        agent.ping()  # under the new key
        told = agent.hello()
        assert told["hostname"] == identity.hostname
        assert told["machine_id"] == identity.machine_id
        assert told["mac"] == identity.mac
        assert told["address"] == str(identity.address)
        assert agent.run(("hostname",)).stdout.decode().strip() == identity.hostname
        assert agent.read_file("/etc/hostname").decode().strip() == identity.hostname
        assert agent.read_file("/etc/machine-id").decode().strip() == identity.machine_id
        link = agent.run(("ip", "addr", "show", "eth0")).stdout.decode()
        assert f"inet {identity.address}/{identity.prefix} " in link
        assert identity.mac in link
        assert "UP" in link.splitlines()[0]
    finally:
        identity.release()


@pytest.mark.parametrize(
    "fields",
    [
        field(Tag.MAC, b"short"),
        field(Tag.KEY, b"short"),
        field(Tag.ADDRESS, "10.0.0.1"),
        field(Tag.ADDRESS, "10.0.0.1/33"),
        field(Tag.ADDRESS, "somewhere/16"),
        field(Tag.PATH, "not of an identity"),
        b"\x01\xff\xff\xff\xff",
        b"\x01",
    ],
)
def test_a_malformed_identity_is_refused(agent: Agent, fields: bytes) -> None:
    with pytest.raises(GuestRefused, match="identity field") as refused:
        agent.call(Kind.IDENTITY, fields)
    assert refused.value.number == errno.EINVAL
    agent.ping()


def test_touching_16_mib_takes_them_from_the_guest(agent: Agent) -> None:
    agent.touch(0)
    before = agent.memory()
    agent.touch(16)
    after = agent.memory()
    # The kernel adds to a process's resident count in batches of 64 pages, so it lags a little.
    assert after["agent"] - before["agent"] > 15 * MIB
    assert before["MemFree"] - after["MemFree"] > 14 * MIB
    agent.touch(0)
    assert agent.memory()["agent"] < before["agent"] + MIB


def test_touching_more_than_there_is_is_refused(agent: Agent) -> None:
    with pytest.raises(GuestRefused) as refused:
        agent.touch(1 << 20)
    assert refused.value.number == errno.ENOMEM
    agent.ping()


def test_memory_is_reported_in_bytes(agent: Agent, sandbox: QemuSandbox) -> None:
    report = agent.memory()
    assert 150 * MIB < report["MemTotal"] <= 256 * MIB
    assert 0 < report["MemFree"] < report["MemTotal"]
    assert 0 < report["agent"] < 16 * MIB


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Kind.PING, b"short"),
        (Kind.EXEC, b""),
        (Kind.EXEC, field(Tag.CWD, "/")),
        (Kind.EXEC, field(Tag.ARG, "/bin/true") + b"\x10\xff\xff\xff\x7f"),
        (Kind.EXEC, b"\x10\x01"),
        (Kind.READ, b"\x20\xff\xff\xff\xff"),
        (Kind.READ, field(Tag.OFFSET, 1)),
        (Kind.WRITE, b"\x20"),
    ],
)
def test_malformed_fields_are_refused(agent: Agent, kind: Kind, payload: bytes) -> None:
    with pytest.raises(GuestRefused) as refused:
        agent.call(kind, payload)
    assert refused.value.number == errno.EINVAL
    agent.ping()


@pytest.mark.parametrize("kind", [0, 13, 99, 127, 200])
def test_an_unknown_request_is_refused(agent: Agent, kind: int) -> None:
    with pytest.raises(GuestRefused) as refused:
        agent.call(kind, b"payload")  # type: ignore[arg-type]
    assert refused.value.number == errno.ENOSYS
    agent.ping()


def test_stdin_and_signals_for_nobody_are_refused(agent: Agent) -> None:
    for kind, number in ((Kind.STDIN, errno.EPIPE), (Kind.SIGNAL, errno.ESRCH)):
        with pytest.raises(GuestRefused) as refused:
            agent.call(kind, bytes(4))
        assert refused.value.number == number


def test_noise_on_the_line_is_stepped_over(agent: Agent, sandbox: QemuSandbox) -> None:
    for noise in (b"\xb1\xc0" * 30, b"any text\n", bytes(1000)):
        sandbox.vmm.agent.sendall(noise)
        agent.ping()


def test_of_forty_processes_at_once_those_over_the_limit_are_refused(
    agent: Agent, sandbox: QemuSandbox
) -> None:
    asked = 40
    ids = [agent.send(Kind.EXEC, exec_fields((*SHELL, f"sleep 3; exit {n}"))) for n in range(asked)]
    frames = frames_until(sandbox.vmm.agent, asked, {Kind.EXIT, Kind.ERROR}, 20)
    refused = [frame for frame in frames if frame.kind == Kind.ERROR]
    assert len(refused) == asked - CHILDREN_MAX
    assert {struct.unpack_from("<I", frame.payload)[0] for frame in refused} == {errno.EAGAIN}
    ended = {
        frame.id: struct.unpack("<II", frame.payload) for frame in frames if frame.kind == Kind.EXIT
    }
    assert ended == {id: (n, 0) for n, id in enumerate(ids[:CHILDREN_MAX])}
    agent.ping()
    assert agent.run(("echo", "again")).stdout == b"again\n"


def test_a_daemon_left_behind_does_not_hold_up_its_parents_end(agent: Agent) -> None:
    start = time.monotonic()
    assert agent.run((*SHELL, "sleep 20 & echo done")).stdout == b"done\n"
    assert time.monotonic() - start < 10


def test_a_shutdown_ends_the_vmm(run: Run) -> None:
    with launched(run, Tier.FULL) as guest:
        guest.awaken(AWAKE_S)
        guest.agent.shutdown()
        assert guest.vmm.process.wait(10) == 0
