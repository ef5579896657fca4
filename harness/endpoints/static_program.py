"""A fresh static program for a sandbox: a few instructions that print a product of their own.

It is made here, without a compiler, and no two are alike: nothing can have run it before, in no
cache is a page of it, and a service that does not run it does not know what it prints.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

BASE = 0x400000
_HEADERS = 64 + 56
_MACHINES = {"x86_64": 62, "aarch64": 183}


def _x86_64(a: int, b: int) -> bytes:
    return (
        b"\x48\xb8" + struct.pack("<Q", a)  # mov rax, a
        + b"\x48\xb9" + struct.pack("<Q", b)  # mov rcx, b
        + b"\x48\x0f\xaf\xc1"  # imul rax, rcx
        + b"\x48\x89\xe6\x48\xff\xce\xc6\x06\x0a"  # the buffer ends below rsp, with a newline
        + b"\xb9\x0a\x00\x00\x00"  # mov ecx, 10
        + b"\x31\xd2\x48\xf7\xf1\x80\xc2\x30"  # loop: edx = rax % 10 + '0', rax /= 10
        + b"\x48\xff\xce\x88\x16"  # dec rsi; mov [rsi], dl
        + b"\x48\x85\xc0\x75\xee"  # test rax, rax; jnz loop
        + b"\x48\x89\xe2\x48\x29\xf2"  # rdx = rsp - rsi
        + b"\xbf\x01\x00\x00\x00\xb8\x01\x00\x00\x00\x0f\x05"  # write(1, rsi, rdx)
        + b"\x31\xff\xb8\x3c\x00\x00\x00\x0f\x05"  # exit(0)
    )  # fmt: skip


def _aarch64(a: int, b: int) -> bytes:
    def constant(register: int, value: int) -> Sequence[int]:
        parts = [value >> shift & 0xFFFF for shift in (0, 16, 32, 48)]
        return [
            (0xF2800000 if place else 0xD2800000) | place << 21 | part << 5 | register
            for place, part in enumerate(parts)
        ]

    instructions = [
        *constant(0, a),
        *constant(1, b),
        0x9B017C00,  # mul x0, x0, x1
        0x910003E3,  # mov x3, sp
        0xAA0303E4,  # mov x4, x3
        0xD2800145,  # mov x5, #10
        0x381FFC85,  # strb w5, [x4, #-1]!
        0x9AC50806,  # loop: udiv x6, x0, x5
        0x9B0580C7,  # msub x7, x6, x5, x0
        0x1100C0E7,  # add w7, w7, #'0'
        0x381FFC87,  # strb w7, [x4, #-1]!
        0xAA0603E0,  # mov x0, x6
        0xB5FFFF60,  # cbnz x0, loop
        0xCB040062,  # sub x2, x3, x4
        0xAA0403E1,  # mov x1, x4
        0xD2800020,  # mov x0, #1
        0xD2800808,  # mov x8, #64: write
        0xD4000001,  # svc #0
        0xD2800000,  # mov x0, #0
        0xD2800BA8,  # mov x8, #93: exit
        0xD4000001,  # svc #0
    ]
    return struct.pack(f"<{len(instructions)}I", *instructions)


CODE: Mapping[str, Callable[[int, int], bytes]] = {"x86_64": _x86_64, "aarch64": _aarch64}
"""By the machine's name as `uname -m` prints it."""


def program(machine: str, a: int, b: int) -> bytes:
    """An ELF executable that prints a*b, which is less than 2**63, and a newline. KeyError for a
    machine for which there is none."""
    code = CODE[machine](a, b)
    size = _HEADERS + len(code)
    header = struct.pack(
        "<4sBBBB8xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 2, _MACHINES[machine], 1,
        BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0,
    )  # fmt: skip
    loaded = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 0x1000)
    return header + loaded + code
