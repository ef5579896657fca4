"""What a VMM holds for itself, and what keeps that small."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.measure import footprint_linux, kernel_memory_linux
from harness.paths import cache_directory
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import jail
from harness.sandbox.qemu.machine import (
    MICROVM_PROGRAM,
    PROGRAM,
    Descriptors,
    Shape,
    arguments,
    program,
)
from harness.sandbox.qemu.sandbox import QemuSandbox

FDT = "libfdt.so.1"
TREE = """
import ctypes, sys
fdt = ctypes.CDLL(None)
size = 1 << 20
room = ctypes.create_string_buffer(b"\\xff" * size, size)
assert fdt.fdt_create(room, size) == 0
assert fdt.fdt_finish_reservemap(room) == fdt.fdt_begin_node(room, b"") == 0
assert fdt.fdt_end_node(room) == fdt.fdt_finish(room) == 0
written = size - room.raw.count(b"\\xff")
assert fdt.fdt_open_into(room, room, size) == 0
assert fdt.fdt_add_subnode(room, 0, b"chosen") > 0
print(written)
"""
"""Makes a device tree as QEMU does, and says how many bytes of it were written."""


def _tree(preloads: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", TREE],
        env={**os.environ, "LD_PRELOAD": preloads},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    return int(done.stdout)


def test_a_device_tree_is_made_in_a_page() -> None:
    lean = jail.program(cache_directory(), "lean", *jail.SHARED)
    assert _tree(FDT) == 1 << 20
    assert _tree(f"{lean}:{FDT}") <= 4096


def test_the_build_for_microvms_runs_under_kvm_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    present = [True]
    monkeypatch.setattr(
        "harness.sandbox.qemu.machine.shutil.which",
        lambda name: f"/usr/bin/{name}" if present[0] else None,
    )
    program.cache_clear()
    ends = Descriptors(3, 4, 5, 6, 7)
    try:
        assert arguments(Shape("tcg"), "x", ends)[0] == PROGRAM
        assert "program" not in Shape("tcg").facts()
        assert arguments(Shape("kvm"), "x", ends)[0] == MICROVM_PROGRAM
        assert Shape("kvm").facts()["program"] == MICROVM_PROGRAM
        present[0] = False
        program.cache_clear()
        assert arguments(Shape("kvm"), "x", ends)[0] == PROGRAM
        assert "program" not in Shape("kvm").facts()
    finally:
        program.cache_clear()


def test_a_restored_vmm_has_no_huge_pages_and_its_parts_add_up(
    launch: Callable[[Tier], QemuSandbox],
) -> None:
    guest = launch(Tier.DURABLE_POOL)
    guest.awaken(60)
    process = guest.process
    assert process
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    if "THP_enabled" in status:
        assert "THP_enabled:\t0" in status
    found = footprint_linux.read(process.pid, process.guest_memory)
    assert found
    parts = {part: found.private_part(part) for part in footprint_linux.PARTS}
    assert sum(parts.values()) == found.private
    assert 0 < parts["guest memory"] < found.part("guest memory")
    assert parts["heap"] > 1 << 20 and parts["page tables"] == found.page_tables
    kernel = kernel_memory_linux.read(process.pid)
    assert not kernel or parts["page tables"] < kernel[kernel_memory_linux.ALL] < 16 << 20
