"""The agent in a real guest."""

from __future__ import annotations

import errno
import time

import pytest

from harness.errors import GuestDied, GuestRefused
from harness.guest.protocol import KEEP_STDIN, FrameKind, Tag, encode, field
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu.sandbox import QemuSandbox
from tests.host.processes import eventually
from tests.qemu.conftest import Launch

MIB = 1 << 20


def test_it_answers_nonces_and_keeps_time(guest: QemuSandbox) -> None:
    sent = time.time_ns()
    first = guest.agent.ping(wall_ns=sent)
    second = guest.agent.ping()
    # It is behind by what the message was under way, which a busy host may draw out.
    assert sent - 50_000_000 < second.wall_ns < time.time_ns() + 50_000_000
    assert second.monotonic_ns > first.monotonic_ns


def test_a_process_has_two_streams_and_a_code(guest: QemuSandbox) -> None:
    done = guest.agent.run(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.code, done.signal, done.stdout, done.stderr) == (3, 0, b"out\n", b"err\n")


def test_output_is_streamed(guest: QemuSandbox) -> None:
    started = field(Tag.ARG, "/bin/sh") + field(Tag.ARG, "-c") + field(
        Tag.ARG, "echo one; read word; echo $word")  # fmt: skip
    id = guest.agent.send(FrameKind.EXEC, started, flags=KEEP_STDIN)
    deadline = time.monotonic() + 60
    first = guest.agent.receive(id, deadline)
    assert (first.kind, first.payload) == (FrameKind.STDOUT, b"one\n")
    guest.agent._write(encode(FrameKind.STDIN, id, b"two\n"))  # the shell waits for it
    assert guest.agent.receive(id, deadline).payload == b"two\n"
    assert guest.agent.receive(id, deadline).kind == FrameKind.EXIT


@pytest.mark.parametrize("size", [0, 5, 300 * 1024])
def test_stdin_reaches_the_process_completely(guest: QemuSandbox, size: int) -> None:
    data = bytes(i * 7 % 251 for i in range(size))
    assert guest.agent.run(["/bin/cat"], stdin=data).stdout == data


def test_a_process_is_killed_at_its_timeout(guest: QemuSandbox) -> None:
    done = guest.agent.run(["/bin/sleep", "600"], timeout_s=0.5)
    assert (done.signal, done.stdout) == (9, b"")


def test_a_missing_program_is_refused(guest: QemuSandbox) -> None:
    with pytest.raises(GuestRefused, match="/bin/nothing") as refusal:
        guest.agent.run(["/bin/nothing"])
    assert refusal.value.number == errno.ENOENT
    guest.agent.ping()


def test_directory_and_environment(guest: QemuSandbox) -> None:
    done = guest.agent.run(
        ["/bin/sh", "-c", "pwd; echo $COLOUR"], cwd="/tmp", env={"COLOUR": "green"}
    )
    assert done.stdout == b"/tmp\ngreen\n"
    with pytest.raises(GuestRefused):
        guest.agent.run(["/bin/true"], cwd="/nowhere")


def test_files_are_written_and_read_completely(guest: QemuSandbox) -> None:
    data = bytes(range(256)) * 4096
    guest.agent.write_file("/tmp/file", data, mode=0o600)
    assert guest.agent.read_file("/tmp/file") == data
    guest.agent.write_file("/tmp/file", b"short")
    assert guest.agent.read_file("/tmp/file") == b"short"
    for path, number in (("/tmp/absent", errno.ENOENT), ("/tmp", errno.EISDIR)):
        with pytest.raises(GuestRefused) as refusal:
            guest.agent.read_file(path)
        assert refusal.value.number == number


def test_a_file_of_proc_is_read_to_its_end(guest: QemuSandbox) -> None:
    """The kernel returns it in pieces of its own choice."""
    content = guest.agent.read_file("/proc/1/smaps")
    last = guest.agent.run(["/bin/sh", "-c", "tail -n 1 /proc/1/smaps"]).stdout
    assert len(content) > 4096
    assert content.endswith(last)


def test_arguments_may_be_as_long_and_many_as_linux_allows(guest: QemuSandbox) -> None:
    script = "n=0; for a; do n=$((n + ${#a})); done; echo $# $n"
    for count, length in ((1000, 1), (1, 131071), (15, 131000)):
        done = guest.agent.run(["/bin/sh", "-c", script, "-", *["x" * length] * count])
        assert done.stdout.split() == [b"%d" % count, b"%d" % (count * length)]
    variables = {f"V{number}": "v" * 1000 for number in range(500)}
    done = guest.agent.run(["/bin/sh", "-c", "echo ${#V0} ${#V499}"], env=variables)
    assert done.stdout == b"1000 1000\n"
    for arguments in (["x" * 131072], ["x" * 131071] * 17, ["x" * 131071] * 70):
        with pytest.raises(GuestRefused) as refusal:
            guest.agent.run(["/bin/echo", *arguments])
        assert refusal.value.number == errno.E2BIG
    guest.agent.ping()


def test_the_guest_reports_its_identity(guest: QemuSandbox) -> None:
    hello, wanted = guest.agent.hello(), guest.identity
    assert hello["hostname"] == wanted.hostname
    assert hello["machine_id"] == wanted.machine_id
    assert hello["mac"] == wanted.mac
    assert hello["address"] == str(wanted.address)
    inside = guest.agent.run(["/bin/sh", "-c", "hostname; cat /etc/machine-id"]).stdout
    assert inside.decode().split() == [wanted.hostname, wanted.machine_id]


def test_touching_uses_guest_memory(guest: QemuSandbox) -> None:
    before = guest.agent.memory()["MemAvailable"]
    guest.touch(32)
    after = guest.agent.memory()
    assert before - after["MemAvailable"] > 24 * MIB
    assert after["agent"] > 32 * MIB
    guest.touch(0)


def test_unknown_requests_are_refused(guest: QemuSandbox) -> None:
    with pytest.raises(GuestRefused) as refusal:
        guest.agent.call(FrameKind.STDOUT)
    assert refusal.value.number == errno.ENOSYS


@pytest.mark.parametrize(
    "payload", [b"", b"\x10\xff\xff\xff\xff", b"\x10\x05\x00\x00\x00ab", b"\x01"]
)
def test_malformed_requests_are_refused(guest: QemuSandbox, payload: bytes) -> None:
    with pytest.raises(GuestRefused):
        guest.agent.call(FrameKind.EXEC, payload)
    guest.agent.ping()


def test_noise_in_the_channel_is_ignored(guest: QemuSandbox) -> None:
    guest.agent._write(b"\xb1\xc0 noise " * 50)
    guest.agent.ping()


def test_the_thirty_third_process_is_refused(guest: QemuSandbox) -> None:
    sleep = field(Tag.ARG, "/bin/sleep") + field(Tag.ARG, "300")
    running = [guest.agent.send(FrameKind.EXEC, sleep) for _ in range(32)]
    with pytest.raises(GuestRefused) as refusal:
        guest.agent.call(FrameKind.EXEC, sleep)
    assert refusal.value.number == errno.EAGAIN
    for id in running:
        guest.agent._write(encode(FrameKind.SIGNAL, id, (9).to_bytes(4, "little")))
    deadline = time.monotonic() + 60
    ended = [guest.agent.receive_any(deadline) for _ in running]  # in the order in which they end
    assert sorted(frame.id for frame in ended) == running
    assert {frame.payload for frame in ended} == {b"\0\0\0\0\x09\0\0\0"}
    assert guest.agent.run(["/bin/echo", "again"]).stdout == b"again\n"


def test_orphans_are_reaped_and_a_closed_pipe_ends_a_process(guest: QemuSandbox) -> None:
    guest.agent.run(["/bin/sh", "-c", "(sleep 0.2 &) ; true"])

    def processes() -> bytes:
        return guest.agent.run(["/bin/ps", "-o", "stat,comm"]).stdout.replace(b"STAT", b"")

    eventually(lambda: b"sleep" not in (found := processes()) and b"Z" not in found)
    # The agent starts programs with the default action for SIGPIPE.
    done = guest.agent.run(["/bin/sh", "-c", "yes | head -n 1"], timeout_s=60)
    assert done.stdout == b"y\n" and done.code == 0
    eventually(lambda: b"yes" not in (found := processes()) and b"Z" not in found)


def test_power_off(launch: Launch) -> None:
    sandbox = launch(Tier.DURABLE_PREWARM_POOL)
    sandbox.resume()
    sandbox.agent.shutdown()
    assert sandbox.vmm.process.wait(60) == 0
    with pytest.raises(GuestDied):
        sandbox.agent.ping()
