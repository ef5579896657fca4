"""Makes frames that are wrong in some way. The same seed makes the same frames."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

from harness.guest.protocol import CHECK, HEADER, MAGIC, PAYLOAD_MAX, checksum

KINDS = (128, 129, 130, 131, 132, 133, 134, 255)
"""What guests send: answers, output, ends, entries, events, errors."""
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1)
TEXTS = (
    b"", b"=", b"\n", b":", b"a=b", b"\xff\xfe", b"\xc3", "é\u2028\u202e".encode(), b"9" * 5000,
    b"MemTotal: -1 kB\n", b"MemTotal: \xd9\xa3 kB", b"\x1b]0;x\x07", b"{" * 2000, b"null\n",
    b'{"type": "end_of_execution"}\n', b"disk 1\n", b"cpu\n", bytes(PAYLOAD_MAX),
)  # fmt: skip
Answer = tuple[int, bytes]
"""The kind and payload of a frame that the client expects."""


class Mutation:
    """Mutates the frames of calls; `frames` counts them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.frames = 0

    def stream(self, answers: Sequence[tuple[int, Answer]]) -> bytes:
        """The bytes of frames, of which some or all are wrong. `answers` are (id, answer)."""
        data = b""
        for id, (kind, payload) in answers:
            chance = self.random.random()
            if chance < 0.05:
                continue
            if chance < 0.1:
                data += self._noise()
            data += self._frame(kind, id, payload)
            if chance > 0.95:
                data += self._frame(kind, id, payload)
        return data

    def _frame(self, kind: int, id: int, payload: bytes) -> bytes:
        self.frames += 1
        pick = self.random
        if pick.random() < 0.15:
            kind = pick.choice((*KINDS, pick.randrange(256)))
        if pick.random() < 0.1:
            id = pick.choice((0, id + 1, 0xFFFFFFFF, pick.getrandbits(32)))
        payload = self.vary(payload)[:PAYLOAD_MAX]
        length = len(payload)
        if pick.random() < 0.03:
            length = pick.choice((length + 1, max(length - 1, 0), PAYLOAD_MAX, 0xFFFFFFFF))
        head = HEADER.pack(MAGIC, kind, pick.choice((0, 0, 0, 255)), id & 0xFFFFFFFF, length)
        frame = head + CHECK.pack(checksum(head)) + payload
        return self._flipped(frame) if pick.random() < 0.03 else frame

    def _noise(self) -> bytes:
        pick = self.random
        return pick.choice((pick.randbytes(20), struct.pack("<H", MAGIC) * 9, b"[ 0.0] Linux\n"))

    def vary(self, data: bytes) -> bytes:
        """A variation of bytes; unchanged at times."""
        ways: Sequence[Callable[[bytes], bytes]] = (
            bytes, bytes, self._flipped, self._cut, self._longer, self._numbered, self._replaced,
            self._spliced,
        )  # fmt: skip
        return self.random.choice(ways)(data)

    def _flipped(self, data: bytes) -> bytes:
        flipped = bytearray(data or b"\0")
        for _ in range(self.random.randrange(1, 5)):
            flipped[self.random.randrange(len(flipped))] ^= 1 << self.random.randrange(8)
        return bytes(flipped)

    def _cut(self, data: bytes) -> bytes:
        return data[: self.random.randrange(len(data) + 1)]

    def _longer(self, data: bytes) -> bytes:
        return data + self.random.randbytes(self.random.choice((1, 4, 8, 100)))

    def _numbered(self, data: bytes) -> bytes:
        """With an extreme number somewhere."""
        at = self.random.randrange(len(data) + 1)
        return data[:at] + struct.pack("<Q", self.random.choice(NUMBERS)) + data[at + 8 :]

    def _replaced(self, data: bytes) -> bytes:
        return self.random.choice((*TEXTS, self.random.randbytes(len(data))))

    def _spliced(self, data: bytes) -> bytes:
        at = self.random.randrange(len(data) + 1)
        return data[:at] + self.random.choice(TEXTS[:-1]) + data[at:]
