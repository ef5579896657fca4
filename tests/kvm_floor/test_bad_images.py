"""Images that are damaged or of hostile guests: one clear reason, no other sandbox harmed."""

from __future__ import annotations

import array
import os
import random
import re
import shutil
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import (
    CheckpointCorrupt,
    CheckpointForeign,
    CheckpointTruncated,
    GuestDied,
    SandboxError,
    Unsupported,
)
from harness.host.run import Run
from harness.paths import cache_directory
from harness.sandbox import manifest
from harness.sandbox.kvm_floor import checkpoint as checkpoints
from harness.sandbox.kvm_floor import substrate as substrates
from harness.sandbox.kvm_floor.checkpoint import Checkpoint
from harness.sandbox.kvm_floor.programs import Programs
from harness.sandbox.kvm_floor.substrate import KvmFloorSubstrate
from harness.sandbox.kvm_floor.vmm import _REPLY, Vmm
from harness.sandbox.protocol import Tier
from tests.kvm_floor.conftest import PROGRAM, Hostile, Launch

LOOP = bytes.fromhex("66ba1000eeebfe")  # asks FOR_INPUT once, then jmp to itself
CRASH = bytes.fromhex("0f0b")  # ud2, without a handler
ANOTHER_PORT = bytes.fromhex("66ba8000ee")  # out %al, $0x80
NO_END = bytes.fromhex("66ba1100eeebfd")  # asks FOR_ROOM again and again
NO_MEMORY = bytes.fromhex("8b042500000080")  # reads what its tables do not map


@pytest.fixture
def sealed(substrate: KvmFloorSubstrate, run: Run, tmp_path: Path) -> Checkpoint:
    """A copy of the checkpoint."""
    found = substrate.prepare(run, cache_directory(), Tier.DURABLE_POOL).checkpoint
    assert found
    copy = tmp_path / "checkpoint"
    shutil.copytree(found.image.parent, copy)
    return Checkpoint(copy / checkpoints.IMAGE, found.id, found.built_from)


def test_a_damaged_checkpoint_is_refused_by_kind(sealed: Checkpoint) -> None:
    directory, whole = sealed.image.parent, sealed.image.read_bytes()
    assert checkpoints.load(directory, sealed.built_from).id == sealed.id
    sealed.image.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointCorrupt):
        checkpoints.load(directory, sealed.built_from)
    sealed.image.write_bytes(whole[:-4096])
    with pytest.raises(CheckpointTruncated):
        checkpoints.load(directory, sealed.built_from)
    with pytest.raises(CheckpointForeign):
        checkpoints.load(directory, {**sealed.built_from, "sources_sha256": "0" * 64})
    (directory / manifest.NAME).write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointCorrupt):
        checkpoints.load(directory, sealed.built_from)


def test_a_checkpoint_damaged_in_the_cache_is_made_anew(
    substrate: KvmFloorSubstrate, run: Run, tmp_path: Path, launch: Launch
) -> None:
    cache = tmp_path / "cache"
    first = substrate.prepare(run, cache, Tier.DURABLE_POOL).checkpoint
    assert first
    damaged = bytearray(first.image.read_bytes())
    damaged[PROGRAM] ^= 0xFF
    first.image.write_bytes(damaged)
    again = substrate.prepare(run, cache, Tier.DURABLE_POOL).checkpoint
    assert again and again.image.read_bytes() != bytes(damaged)


@pytest.mark.parametrize(
    ("length", "why"), [(0, "truncated"), (4096, "truncated"), (None, "not one of kvm-floor")]
)
def test_a_vmm_refuses_what_is_no_image(
    programs: Programs, run: Run, tmp_path: Path, length: int | None, why: str
) -> None:
    image = tmp_path / "image"
    whole = programs.image.stat().st_size
    image.write_bytes(os.urandom(whole if length is None else length))
    with pytest.raises(Unsupported, match=why):
        Vmm(run, programs.vmm, image, "test-no-image")


@pytest.mark.parametrize(
    ("code", "why"),
    [(CRASH, "exit"), (ANOTHER_PORT, "none|exit"), (NO_MEMORY, "exit")],
    ids=["crash", "port", "unmapped"],
)  # fmt: skip
def test_a_guest_that_fails_is_ended_and_the_reason_is_told(
    hostile: Hostile,
    channel: Callable[[Vmm], tuple[int, socket.socket]],
    code: bytes,
    why: str,
) -> None:
    vmm = hostile(code)
    slot, line = channel(vmm)
    vmm.send(vmm.message(slot, b""))
    assert line.recv(1) == b""
    assert re.search(why, str(vmm.died()))
    with pytest.raises(GuestDied):
        raise vmm.died()
    vmm.destroy(slot)
    assert channel(vmm)[0] == slot, "the VMM serves others, and reuses the place"


def test_a_guest_that_asks_for_nothing_is_ended_even_if_it_did_before(
    hostile: Hostile, channel: Callable[[Vmm], tuple[int, socket.socket]]
) -> None:
    """One alarm serves many entries: it must neither miss the entry that hangs nor end another."""
    vmm = hostile(LOOP)
    slot, line = channel(vmm)
    vmm.send(vmm.message(slot, b""))
    vmm.stop(slot)  # answered after the guest has asked for input
    began = time.monotonic()
    vmm.send(vmm.message(slot, b""))
    assert line.recv(1) == b""
    assert time.monotonic() - began > 4, "it may run for five seconds"
    assert "ran for too long" in str(vmm.died())
    assert channel(vmm)[0] == slot + 1, "the VMM serves others"


def test_a_guest_that_never_waits_does_not_keep_others_from_their_turn(
    hostile: Hostile, channel: Callable[[Vmm], tuple[int, socket.socket]]
) -> None:
    vmm = hostile(NO_END)
    slot, _ = channel(vmm)
    vmm.send(vmm.message(slot, b""))
    others = [channel(vmm)[0] for _ in range(5)]
    assert len({slot, *others}) == 6
    vmm.destroy(slot)


@pytest.mark.parametrize("at", range(0, 304, 16))
def test_a_state_that_is_garbage_ends_its_guest_alone(
    programs: Programs,
    vmm_of: Callable[[Path], Vmm],
    channel: Callable[[Vmm], tuple[int, socket.socket]],
    tmp_path: Path,
    at: int,
) -> None:
    """Registers that KVM or the processor refuses: a guest ends or answers, the VMM serves on."""
    whole = bytearray(programs.image.read_bytes())
    state = len(whole) - 4096 + 16  # behind the header
    whole[state + at : state + at + 16] = b"\xff" * 16
    image = tmp_path / f"garbage-{at}"
    image.write_bytes(whole)
    vmm = vmm_of(image)
    slot, line = channel(vmm)
    vmm.send(vmm.message(slot, b""))
    line.recv(16)
    vmm.destroy(slot)
    assert channel(vmm)[0] == slot


def test_hostile_bytes_on_the_control_socket_neither_end_a_vmm_nor_fill_it(
    programs: Programs, vmm_of: Callable[[Path], Vmm], run: Run
) -> None:
    vmm = vmm_of(programs.image)
    held = len(list(Path(f"/proc/{vmm.pid}/fd").iterdir()))
    chance = random.Random(run.id)
    with Path("/dev/null").open("rb") as file:
        for _ in range(300):
            length = chance.choice([1, 4, 11, 12, 13, 100, 1036, 1037, 5000])
            data = bytearray(chance.randbytes(length))
            if length >= 12:  # a request that is none, and one of a sandbox that is none
                told = chance.choice([length - 12, 0, 2**32 - 1])
                what, slot = chance.choice([0, 2, 3, 4, 5, 6, 7, 99]), chance.choice([0, 63, 2**31])
                data[:12] = struct.pack("<III", what, slot, told)
            passed = array.array("i", [file.fileno()] * chance.choice([0, 1, 5]))
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)] if passed else []
            vmm._control.sendmsg([data], rights)
            if length >= 12 and told == min(length, 1036) - 12:
                error, _, _, why = _REPLY.unpack(vmm._control.recv(_REPLY.size))
                assert error and why
    with pytest.raises(SandboxError, match="no such sandbox"):
        vmm.stop(0)  # answered after all of them
    assert vmm.runs and len(list(Path(f"/proc/{vmm.pid}/fd").iterdir())) == held


def test_without_kvm_it_is_not_measured(
    substrate: KvmFloorSubstrate, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for device, why in (
        (tmp_path / "none", "does not exist"),
        (Path("/dev/null"), "is not KVM's device"),
    ):
        monkeypatch.setattr(substrates, "KVM", device)
        with pytest.raises(Unsupported, match=why):
            substrate.prepare(run, cache_directory(), Tier.FULL)


def test_without_rights_it_is_not_measured(substrate: KvmFloorSubstrate, run: Run) -> None:
    if os.geteuid() != 0 or Path("/dev/kvm").stat().st_mode & 0o006:
        pytest.skip("/dev/kvm opens for every user, or this one cannot become another")
    os.setresuid(65534, 65534, 0)
    try:
        with pytest.raises(Unsupported, match="may not be opened by this user"):
            substrate.prepare(run, cache_directory(), Tier.FULL)
    finally:
        os.setresuid(0, 0, 0)
