"""The parts of host memory, and of a process's memory, for known files and a known process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.measure import footprint_linux, kernel_memory_linux, memory_linux
from harness.measure.footprint_linux import MappingKind, Share
from harness.measure.system import System

MIB = 1 << 20
KIB = 1 << 10
NAMES = (
    *("MemAvailable", "MemFree", "Cached", "Buffers", "Shmem"),
    *("AnonPages", "PageTables", "KernelStack", "Slab", "Mapped"),
)
SMAPS = """\
7f0000000000-7f0010000000 rw-p 00000000 fe:00 12 /cache/checkpoints/ab/memory
Pss:                1000 kB
Private_Dirty:       600 kB
KSM:                  40 kB
7f1000000000-7f1002000000 rwxp 00000000 00:00 0
Pss:                 700 kB
Private_Dirty:       700 kB
KSM:                   0 kB
555500000000-555500800000 rw-p 00000000 00:00 0 [heap]
Pss:                  80 kB
Private_Dirty:        80 kB
7f2000000000-7f2000021000 rw-p 00000000 00:00 0
Pss:                  30 kB
Private_Dirty:        30 kB
7f2100000000-7f2100001000 ---p 00000000 00:00 0
Pss:                   0 kB
Private_Dirty:         0 kB
7f2100001000-7f2100801000 rw-p 00000000 00:00 0
Pss:                  12 kB
Private_Dirty:        12 kB
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]
Pss:                   8 kB
Private_Dirty:         8 kB
7f3000001000-7f3000009000 r--p 00000000 fe:00 13 /usr/lib/libx.so (deleted)
Pss:                   5 kB
Private_Dirty:         4 kB
7f4000001000-7f4000301000 rw-p 00000000 00:00 0
Pss:                   3 kB
Private_Dirty:         2 kB
VmFlags: rd wr mr
7f5000001000-7f5000801000 rw-p 00000000 00:00 0
Pss:                   1 kB
Private_Dirty:         1 kB
"""

KNOWN = """
import mmap, os, sys
mib = 1 << 20
own = mmap.mmap(-1, 8 * mib, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
file = os.open(sys.argv[1], os.O_RDWR)
guest = mmap.mmap(file, 6 * mib, flags=mmap.MAP_PRIVATE)
for at in range(0, 8 * mib, 4096): own[at] = 1
for at in range(0, 2 * mib, 4096): guest[at] = 1
print("ready", flush=True)
sys.stdin.read()
"""
"""Uses 8 MiB of its own, and has written to 2 MiB of a private file mapping."""


def fake(tmp_path: Path, files: dict[str, str]) -> System:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return System(root=tmp_path)


def test_the_parts_of_host_memory_and_both_totals(tmp_path: Path) -> None:
    text = "".join(f"{name}: {number * 1000} kB\n" for number, name in enumerate(NAMES, 1))
    zones = "Node 0, zone Normal\n  pagesets\n    cpu: 0\n              count:    100\n"
    zones += "              high:     900\n    cpu: 1\n              count:    150\n"
    memory = memory_linux.read(fake(tmp_path, {"proc/meminfo": text, "proc/zoneinfo": zones}))
    assert memory.in_lists == 250 * memory_linux.PAGE
    assert memory.to_be_had == 1000 * KIB + 250 * memory_linux.PAGE
    assert memory.available == 1000 * KIB and memory.page_tables == 7000 * KIB
    # Memory files without a file are in the cache and cannot be given back.
    assert memory.free_and_caches == (2000 + 3000 + 4000 - 5000) * KIB + memory.in_lists
    parts = dict(memory.parts())
    assert (
        parts["kernel-stacks"] == 8000 * KIB
        and parts["free-and-caches"] == 4000 * KIB + memory.in_lists
    )
    assert len(parts) == 12


def test_this_host_has_every_part() -> None:
    parts = dict(memory_linux.read().parts())
    assert all(value > 0 for name, value in parts.items() if name not in ("shared", "in-lists"))


def test_memory_freed_by_a_process_is_available_at_once() -> None:
    """The kernel's own MemAvailable may lag behind."""
    size = 512 * MIB
    before = memory_linux.read().to_be_had
    with subprocess.Popen(
        [sys.executable, "-c", f"print(len(bytearray(b'x') * {size}), flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ):
        pass
    assert before - memory_linux.read().to_be_had < size // 2


def test_mappings_by_kind(tmp_path: Path) -> None:
    files = {"proc/7/smaps": SMAPS, "proc/7/status": "VmPTE:\t 300 kB\nThreads:\t4\n"}
    found = footprint_linux.read(7, "/cache/checkpoints/ab/memory", fake(tmp_path, files))
    assert found
    in_kib = {kind: share.pss // KIB for kind, share in found.kinds.items()}
    assert in_kib == {
        MappingKind.GUEST: 1000,
        MappingKind.TRANSLATED: 700,
        MappingKind.HEAP: 80,
        MappingKind.ARENA: 30,
        MappingKind.STACK: 12 + 8,
        MappingKind.FILE: 5,
        MappingKind.ANONYMOUS: 3 + 1,
    }
    assert found.guest == Share(1000 * KIB, 600 * KIB, 40 * KIB)
    assert found.vmm.pss == (700 + 80 + 30 + 20 + 5 + 4) * KIB
    assert found.page_tables == 300 * KIB and found.kernel_stacks == 64 * KIB
    assert found.private == (600 + 700 + 80 + 30 + 20 + 4 + 3 + 300 + 64) * KIB
    assert sum(found.private_part(name) for name in footprint_linux.PARTS) == found.private
    assert found.private_part("program and libraries") == 4 * KIB
    assert sum(found.part(name) for name in footprint_linux.PARTS) == (
        found.vmm.pss + found.guest.pss + 364 * KIB
    )


def test_kernel_memory_of_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_memory_linux, "directories_of", lambda *_: [Path("/group")])
    files = {"proc/7/cgroup": "0::/group\n", "group/memory.stat": "anon 9\nkernel 50\nslab 20\n"}
    assert kernel_memory_linux.read(7, fake(tmp_path, files)) == {"all": 50, "slab": 20}
    old = {"group/memory.stat": "cache 1\nrss 2\n", "group/memory.kmem.usage_in_bytes": "70\n"}
    assert kernel_memory_linux.read(7, fake(tmp_path, old)) == {"all": 70}


def test_kernel_memory_of_this_process() -> None:
    found = kernel_memory_linux.read(os.getpid())
    assert not found or found["all"] > 0
    assert kernel_memory_linux.read(1 << 30) == {}


def test_an_ended_process_has_no_footprint(tmp_path: Path) -> None:
    assert footprint_linux.read(7, "/x", System(root=tmp_path)) is None


def test_the_footprint_of_a_known_process(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    memory.write_bytes(bytes(6 * MIB))
    with subprocess.Popen(
        [sys.executable, "-c", KNOWN, memory], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        found = footprint_linux.read(process.pid, str(memory))
        bare = footprint_linux.read(process.pid, "/nothing/of/that/name")
        process.communicate(b"")
    assert found and bare
    assert found.guest.private_dirty == 2 * MIB
    assert 8 * MIB <= found.kinds[MappingKind.ANONYMOUS].private_dirty < 12 * MIB
    assert bare.guest == Share()
    # Not of the proportional share: others may meanwhile have come to share what is shared.
    assert bare.vmm.private_dirty >= found.vmm.private_dirty + 2 * MIB
    assert 0 < found.page_tables < MIB and found.kernel_stacks >= footprint_linux.KERNEL_STACK


def test_reading_footprints_uses_little_memory() -> None:
    def held() -> int:
        now = memory_linux.read()
        return now.slab + now.page_tables + now.kernel_stacks

    def eaten() -> int:
        before = held()
        for _ in range(50):
            assert footprint_linux.read(os.getpid(), "/none")
        return held() - before

    # The kernel holds for others as well, who do not take so much at every time.
    assert any(eaten() < 16 * MIB for _ in range(10))
