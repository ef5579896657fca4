"""Guests that break the protocol: the gateway's memory, its other sandboxes, its callers' errors.

A short form of the rig hostile-guest, which `mise run test:hostile` runs for longer.
"""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import AnswerTooLong, GuestDied, GuestRefused, GuestTimeout, MalformedAnswer
from harness.gateway.envd import budget, channel
from harness.gateway.envd.client import Envd
from harness.gateway.envd.interpreter import WHOLE_BYTES, InterpreterLines
from harness.gateway.envd.process import Listener, ProcessEvent, RunningProcess
from harness.gateway.envd.wire import ENTRY, EnvdTag, RequestKind, encode_field
from harness.gateway.gateway_process import running_gateway
from harness.gateway.hostile import fuzz, peer
from harness.gateway.hostile.cases import CASES, GROWTH_MAX, Attacks, Case
from harness.guest.agent_client import Agent
from harness.guest.protocol import PAYLOAD_MAX, Frame, FrameKind, Tag, encode
from harness.host.run import Run

FRAMES = 2000
SEED = 16


@pytest.fixture(scope="module")
def attacks(run: Run) -> Iterator[Attacks]:
    pytest.importorskip("uvicorn")
    with running_gateway(run, program=("harness.gateway.hostile",)) as served:
        yield Attacks(served)
        assert "Traceback" not in served.log_tail()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_guest_s_attack_costs_little_memory_and_no_other_sandbox(
    attacks: Attacks, case: Case
) -> None:
    outcome = attacks.run(case, 0.3)
    assert not outcome.faults
    assert outcome.growth < GROWTH_MAX


def test_wrong_frames_cause_only_errors_of_the_harness() -> None:
    print(f"seed {SEED}")
    report = fuzz.fuzz(SEED, FRAMES)
    assert not report.defects, "\n".join(report.defects)
    calls = {call for call, _ in report.ends}
    assert calls == {*fuzz.AGENT_CALLS, *fuzz.ENVD_CALLS}
    for call in calls - {"usage"}:  # which leaves out what the guest does not report
        ways = {way for of, way in report.ends if of == call}
        assert len(ways) > 1, f"{call} ended in one way only: {ways}"
    assert {"", "MalformedAnswer"} <= {way for _, way in report.ends}


def flooded(answers: bytes, again: bytes) -> tuple[Agent, threading.Thread, socket.socket]:
    """An agent's client whose guest sends some answers and then the same bytes without end."""
    ours, theirs = socket.socketpair()

    def flood() -> None:
        try:
            theirs.sendall(answers)
            while True:
                theirs.sendall(again)
        except OSError:
            return

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    return Agent(ours, "guest"), thread, theirs


@pytest.mark.parametrize("kind", [FrameKind.STDOUT, FrameKind.STDERR])
@pytest.mark.parametrize(
    ("call", "id"),
    [(lambda agent: agent.run(("x",)), 1), (lambda agent: agent.identify_and_run(b"", ("x",)), 2)],
)
def test_endless_output_ends_a_call_of_the_agent(
    call: Callable[[Agent], Any], id: int, kind: FrameKind
) -> None:
    first = encode(FrameKind.ANSWER, 1) if id == 2 else b""
    agent, thread, theirs = flooded(first, encode(kind, id, bytes(PAYLOAD_MAX)))
    with theirs, pytest.raises(AnswerTooLong, match="longer than"):
        call(agent)
    agent.close()
    thread.join(60)


def test_an_endless_file_ends_the_reading_of_the_agent() -> None:
    ours, theirs = socket.socketpair()

    def answer() -> None:
        data = b"x" * (32 << 10)
        for id in range(1, 1 << 30):
            try:
                if not theirs.recv(1 << 16):
                    return
                theirs.sendall(encode(FrameKind.ANSWER, id, data))
            except OSError:
                return

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    agent = Agent(ours, "guest")
    with theirs, pytest.raises(AnswerTooLong, match="longer than"):
        agent.read_file("/dev/zero", limit=1 << 20)
    agent.close()
    thread.join(60)


def test_a_guest_that_does_not_read_its_agent_s_channel_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.guest.agent_client.TIMEOUT_S", 0.2)
    ours, theirs = socket.socketpair()
    agent = Agent(ours, "guest")
    with theirs, pytest.raises(GuestTimeout, match="does not read"):
        agent.run(("x",), stdin=bytes(4 << 20))
    agent.close()


# envd's client.


def with_envd(work: Callable[[Envd, socket.socket], Any]) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            envd = await Envd.connect(ours, "guest")
            try:
                await work(envd, theirs)
            finally:
                envd.close()

    asyncio.run(run())


def test_the_end_of_a_process_counts_that_comes_right_behind_the_list_of_them() -> None:
    async def work(envd: Envd, theirs: socket.socket) -> None:
        entry = encode_field(EnvdTag.PID, 5) + encode_field(Tag.ARG, b"x")
        theirs.sendall(
            encode(ENTRY, 1, entry)
            + encode(FrameKind.ANSWER, 1)
            + encode(FrameKind.EXIT, 5, struct.pack("<II", 1, 0))
        )
        await envd.sync()
        assert not envd.processes

    with_envd(work)


def test_an_endless_list_of_processes_is_an_error() -> None:
    async def work(envd: Envd, theirs: socket.socket) -> None:
        entry = encode_field(EnvdTag.PID, 5) + encode_field(Tag.ARG, bytes(PAYLOAD_MAX - 100))
        frames = encode(ENTRY, 1, entry) * (2 * budget.ANSWER_MAX // PAYLOAD_MAX)
        sent = asyncio.create_task(asyncio.to_thread(theirs.sendall, frames))
        with pytest.raises(AnswerTooLong):
            await envd.sync()
        await sent

    with_envd(work)


def test_a_request_to_a_guest_that_does_not_read_has_a_time_limit() -> None:
    async def work(envd: Envd, theirs: socket.socket) -> None:
        data = bytes(PAYLOAD_MAX)
        writes = [
            asyncio.create_task(envd.request(RequestKind.WRITE, data, timeout_s=0.3))
            for _ in range(200)
        ]
        ends = await asyncio.gather(*writes, return_exceptions=True)
        assert {type(end) for end in ends} == {GuestTimeout}
        assert envd._transport
        assert envd._transport.get_write_buffer_size() < budget.WRITE_MAX // 4 + (128 << 10)

    with_envd(work)


def test_messages_that_wait_for_no_answer_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(envd: Envd, theirs: socket.socket) -> None:
        for _ in range(3 * budget.WRITE_MAX // PAYLOAD_MAX):
            envd.send(RequestKind.PAUSE, bytes(PAYLOAD_MAX))
        assert envd.gone and envd.broken
        with pytest.raises(AnswerTooLong, match="does not read"):
            await envd.stats()

    with_envd(work)


def test_a_guest_with_many_frames_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two turns the event loop does other work."""
    count = 5 * channel.FRAMES_AT_ONCE

    async def work(envd: Envd, theirs: socket.socket) -> None:
        seen: list[int] = []

        def handle(frame: Frame) -> bool:
            seen.append(frame.id)
            return True

        monkeypatch.setattr(envd, "handle_event", handle)
        turns: list[int] = []
        theirs.sendall(encode(ENTRY, 1, b"") * count)
        while len(seen) < count:
            await asyncio.sleep(0)
            turns.append(len(seen))
        steps = [after - before for before, after in zip([0, *turns], turns, strict=False)]
        assert max(steps) <= channel.FRAMES_AT_ONCE and sum(steps) == count

    with_envd(work)


def test_frames_that_wait_for_their_turn_are_handled_before_the_end_of_the_channel() -> None:
    async def work(envd: Envd, theirs: socket.socket) -> None:
        process = RunningProcess(envd, 7, ("x",), "", "")
        envd.processes[7] = process
        listener = process.listen()
        count = 3 * channel.FRAMES_AT_ONCE
        theirs.sendall(encode(FrameKind.STDOUT, 7, b"x") * count)
        theirs.shutdown(socket.SHUT_WR)
        for _ in range(count):
            assert (await listener.get()).data == b"x"
        for _ in range(2):
            with pytest.raises(GuestDied):
                await listener.get()

    with_envd(work)


def test_a_guest_that_sends_on_when_paused_loses_its_channel_and_its_data() -> None:
    async def work(envd: Envd, theirs: socket.socket) -> None:
        process = RunningProcess(envd, 7, ("x",), "", "")
        envd.processes[7] = process
        listeners: list[Listener] = [process.listen() for _ in range(3)]
        frame = encode(FrameKind.STDOUT, 7, bytes(PAYLOAD_MAX))
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        while not envd.gone:
            try:
                await asyncio.wait_for(loop.sock_sendall(theirs, frame), 60)
            except OSError:
                break
        await asyncio.sleep(0)
        assert envd.broken and envd.queued.used == 0
        for listener in listeners:
            with pytest.raises(AnswerTooLong, match="waits"):
                await listener.get()
        with pytest.raises(AnswerTooLong):
            await envd.stats()

    with_envd(work)


def test_several_slow_readers_of_one_process_count_once() -> None:
    async def work(envd: Envd, theirs: socket.socket) -> None:
        process = RunningProcess(envd, 7, ("x",), "", "")
        readers = [process.listen() for _ in range(10)]
        process.publish(ProcessEvent("stdout", bytes(1000)))
        assert envd.queued.used == 1000 + budget.ITEM_BYTES
        for reader in readers[:-1]:
            reader.close()
        assert envd.queued.used == 1000 + budget.ITEM_BYTES
        await readers[-1].get()
        assert envd.queued.used == 0

    with_envd(work)


def test_what_a_failed_request_held_is_freed_at_once() -> None:
    """Not only when the collector of cycles runs: with it, callers' data may be megabytes."""

    async def work(envd: Envd, theirs: socket.socket) -> None:
        def take(payload: bytes) -> None:
            """Held by the request alone."""

        async def ask(take: Callable[[bytes], None]) -> str:
            try:
                await envd.request(RequestKind.LIST, on_entry=take)
            except GuestRefused as error:
                return str(error)
            return ""

        held = weakref.ref(take)
        asking = asyncio.create_task(ask(take))
        await asyncio.sleep(0)
        theirs.sendall(encode(FrameKind.ERROR, 1, struct.pack("<I", 5) + b"no"))
        assert await asking == "no"
        del take, asking
        assert held() is None

    gc.collect()
    gc.disable()
    try:
        with_envd(work)
    finally:
        gc.enable()


def test_a_second_process_with_a_pid_is_refused_and_the_first_goes_on() -> None:
    async def work(envd: Envd, theirs: socket.socket) -> None:
        for number in (1, 2):
            starting = asyncio.create_task(envd.start(("x",)))
            await asyncio.sleep(0)
            theirs.sendall(encode(FrameKind.ANSWER, number, struct.pack("<I", 7)))
            if number == 1:
                first, listener = await starting
            else:
                with pytest.raises(MalformedAnswer, match="one PID"):
                    await starting
        theirs.sendall(encode(FrameKind.STDOUT, 7, b"still here"))
        assert (await listener.get()).data == b"still here"
        assert envd.processes == {7: first}

    with_envd(work)


def test_more_processes_than_a_sandbox_may_have_are_refused() -> None:
    async def work(envd: Envd, theirs: socket.socket) -> None:
        syncing = asyncio.create_task(envd.sync())
        await asyncio.sleep(0)
        entries = [
            encode(ENTRY, 1, peer.process(pid, "")) for pid in range(1, budget.PROCESSES_MAX + 2)
        ]
        theirs.sendall(b"".join([*entries, encode(FrameKind.ANSWER, 1, b"")]))
        with pytest.raises(AnswerTooLong, match="processes"):
            await syncing

    with_envd(work)


def test_lines_of_any_length_pass_in_pieces() -> None:
    last = b'{"type": "end_of_execution"}\n'
    long_line = b'{"type": "result", "text": "' + b"x" * 300_000 + b'"}\n'
    whole = long_line + b'{"type": "stdout"}\n' + b"\n" * 200 + last

    async def work(envd: Envd, theirs: socket.socket) -> None:
        for cut in (1, 7, 63, 64, 65, 60_000):
            process = RunningProcess(envd, 7, ("x",), "", "")
            listener = process.listen()
            for at in range(0, len(whole) if cut > 60 else 0, cut):
                listener.put(ProcessEvent("stdout", whole[at : at + cut]))
            for at in range(0, len(last) if cut <= 60 else 0, cut):
                listener.put(ProcessEvent("stdout", last[at : at + cut]))
            lines = InterpreterLines(listener)
            pieces = [piece async for piece in lines.until("end_of_execution")]
            assert b"".join(pieces) == (whole if cut > 60 else last)
            assert max(map(len, pieces)) <= WHOLE_BYTES + cut

    with_envd(work)


def test_a_result_that_only_looks_like_the_last_line_does_not_end_a_cell() -> None:
    inner = b'{"type": "stdout", "text": "' + b"x" * WHOLE_BYTES
    end = b'{"type": "end_of_execution"}\n'

    async def work(envd: Envd, theirs: socket.socket) -> None:
        process = RunningProcess(envd, 7, ("x",), "", "")
        listener = process.listen()
        for data in (inner, end[:-1], b"\n", end):
            listener.put(ProcessEvent("stdout", data))
        pieces = [piece async for piece in InterpreterLines(listener).until("end_of_execution")]
        assert b"".join(pieces) == inner + end + end

    with_envd(work)


# HTTP of servers in a sandbox.


def test_every_decoding_of_a_guest_s_bytes_goes_through_answers() -> None:
    """The modules that receive a guest's bytes neither unpack nor decode them themselves."""
    root = Path(fuzz.__file__).parents[2]
    receivers = [
        root / "guest/agent_client.py",
        *(root / "gateway/envd").glob("*.py"),
        root / "gateway/data_plane/files.py",
    ]
    decodes = re.compile(r"\.unpack|struct\.unpack|\.decode\(|from_bytes")
    for path in receivers:
        wrong = [
            line
            for line in path.read_text(encoding="utf-8").splitlines()
            if decodes.search(line.replace("answers.unpack", ""))
        ]
        assert not wrong, (path, wrong)
