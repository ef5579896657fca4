"""Guests that do not answer, answer wrongly or die, and what the ladder makes of them."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.errors import GuestDied, GuestTimeout, SandboxError, WrongAnswer
from harness.guest.agent_client import Agent
from harness.guest.protocol import Decoder, Kind, encode
from harness.host.run import Run, cache_folder
from harness.sandbox.identity import allocate
from harness.sandbox.ladder import RUNGS, climb, climb_together, conclude
from harness.sandbox.noop import NoopSubstrate
from harness.sandbox.protocol import Sandbox, Tier
from harness.sandbox.qemu.sandbox import QemuSandbox
from tests.guests import AWAKE_S, launched


@contextmanager
def fake_agent(answer: bytes | None) -> Iterator[Agent]:
    """An agent played by a thread of this test: the same `answer` to every request, or none."""
    ours, theirs = socket.socketpair()

    def play() -> None:
        decoder = Decoder()
        while data := theirs.recv(1 << 16):
            for frame in decoder.feed(data):
                if answer is not None:
                    theirs.sendall(encode(Kind.ANSWER, frame.id, answer))

    thread = threading.Thread(target=play)
    thread.start()
    agent = Agent(ours, "fake")
    try:
        yield agent
    finally:
        ours.shutdown(socket.SHUT_RDWR)
        thread.join()
        agent.close()
        theirs.close()


def test_a_fake_that_never_answers_is_timed_out() -> None:
    with fake_agent(None) as agent:
        start = time.monotonic()
        with pytest.raises(GuestTimeout, match="fake did not answer in time"):
            agent.ping(0.3)
        assert 0.3 <= time.monotonic() - start < 3


@pytest.mark.parametrize("signed", [0, 0xFFFFFFFFFFFFFFFF])
def test_a_fake_that_answers_anything_is_told(signed: int) -> None:
    with fake_agent(struct.pack("<QQQ", signed, 1, 1)) as agent:
        with pytest.raises(WrongAnswer, match="fake answered a nonce"):
            agent.ping(5)


def test_a_fake_that_touches_nothing_is_told() -> None:
    with fake_agent(struct.pack("<Q", 0)) as agent, pytest.raises(WrongAnswer, match="16 MiB"):
        agent.touch(16)


def test_a_line_that_closes_is_a_death() -> None:
    ours, theirs = socket.socketpair()
    agent = Agent(ours, "fake")
    theirs.close()
    with pytest.raises(GuestDied, match="fake"):
        agent.ping(5)
    agent.close()


# Real guests.


def hold(guest: QemuSandbox) -> None:
    """Stop the whole VMM, as a host that swaps or hangs would."""
    os.kill(guest.vmm.process.pid, signal.SIGSTOP)


def short_patience(guest: QemuSandbox) -> None:
    guest.vmm.bell.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 1, 0))


def test_a_vmm_that_hangs_is_timed_out(run: Run) -> None:
    with launched(run, Tier.DURABLE_POOL) as guest:
        guest.awaken(AWAKE_S)
        hold(guest)
        with pytest.raises(GuestTimeout):
            guest.agent.ping(0.5)


def test_a_vmm_that_is_killed_during_a_process_is_a_death(run: Run) -> None:
    with launched(run, Tier.DURABLE_POOL) as guest:
        guest.awaken(AWAKE_S)
        killer = threading.Timer(0.5, guest.vmm.process.kill)
        killer.start()
        with pytest.raises(GuestDied, match="in the middle of a request"):
            guest.agent.run(("sleep", "20"))
        killer.join()


def test_a_guest_with_another_key_answers_wrongly(run: Run) -> None:
    with launched(run, Tier.DURABLE_POOL) as guest:
        guest.awaken(AWAKE_S)
        guest.adopt_identity()
        guest.agent.key = bytes(16)
        with pytest.raises(WrongAnswer, match="something else than its hash"):
            guest.agent.ping()
        guest.arm()
        guest.stop()
        with pytest.raises(WrongAnswer, match="something else than its hash"):
            guest.awaken(AWAKE_S)


def killed(guest: QemuSandbox) -> None:
    guest.vmm.process.kill()
    guest.vmm.process.wait()


def held(guest: QemuSandbox) -> None:
    short_patience(guest)
    hold(guest)


def rekeyed(guest: QemuSandbox) -> None:
    guest.resume()
    guest.agent.key = bytes(15) + b"x"
    guest.arm()
    guest.stop()


@pytest.mark.parametrize(
    ("happens", "reason"),
    [(killed, "GuestDied: "), (held, "GuestTimeout: "), (rekeyed, "WrongAnswer: ")],
)
def test_the_ladder_turns_it_into_a_failure_and_releases(
    run: Run, happens: object, reason: str
) -> None:
    with launched(run, Tier.DURABLE_PREWARM_POOL) as guest:
        assert callable(happens)
        happens(guest)
        one = climb(lambda: guest, "first-touch", 5)
        assert one.failure is not None
        assert one.failure.startswith(reason)
        assert guest.vmm.name in one.failure
        assert one.rungs == {}
        assert one.sandbox is guest
        conclude([one], lambda sandbox: sandbox.destroy(), own_kernel=True)
        assert one.sandbox is None
        assert guest.vmm.process.poll() is not None
        assert not guest.identity.lease.exists()


def test_a_launch_that_fails_is_a_failure_without_a_sandbox() -> None:
    def acquire() -> Sandbox:
        raise SandboxError("no room")

    one = climb(acquire, "first-reply", 5)
    assert (one.failure, one.rungs, one.sandbox) == ("SandboxError: no room", {}, None)


def test_a_guest_that_does_answer_has_every_rung(run: Run) -> None:
    with launched(run, Tier.DURABLE_PREWARM_POOL) as guest:
        one = climb(lambda: guest, "first-touch", AWAKE_S)
        conclude([one], lambda sandbox: sandbox.destroy(), own_kernel=True)
        assert one.failure is None
        assert tuple(one.rungs) == RUNGS
        assert list(one.rungs.values()) == sorted(one.rungs.values())


class Pretender(NoopSubstrate):
    """A substrate that makes nothing and says that it makes microVMs."""

    name = "qemu"
    own_kernel = True


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("upto", ["first-reply", "first-touch"])
def test_a_substrate_that_makes_nothing_gives_no_microvm_sample(
    run: Run, count: int, upto: str
) -> None:
    substrate = Pretender()
    tier = Tier.DURABLE_PREWARM_POOL
    template = substrate.prepare(run, cache_folder(), tier)

    def acquire() -> Sandbox:
        return substrate.launch(run, template, tier, allocate(run.leases, run.id))

    climbs = climb_together(count, acquire, upto, 5)
    assert all(one.rungs for one in climbs)  # so it is `conclude` that takes them away
    leases = [one.sandbox.identity.lease for one in climbs if one.sandbox]
    conclude(climbs, lambda sandbox: sandbox.destroy(), substrate.own_kernel)
    assert [one.rungs for one in climbs] == [{}] * count
    assert all(one.failure and "has no guest" in one.failure for one in climbs)
    assert len(leases) == count
    assert not any(lease.exists() for lease in leases)
