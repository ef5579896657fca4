"""Frames, fields, the doorbell and its hash, without a guest."""

from __future__ import annotations

import struct

import pytest

from harness.guest.protocol import (
    HEADER,
    HEADER_LENGTH,
    KEEP_STDIN,
    MORE,
    PAYLOAD_MAX,
    REQUEST_MAX,
    RING,
    Decoder,
    Frame,
    FrameKind,
    Tag,
    encode,
    field,
    ring,
    ring_answer,
    ring_dated,
    sendable,
    siphash,
)

KEY = bytes(range(16))


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, 0x726FDB47DD0E0E31), (8, 0x93F5F5799A932462), (15, 0xA129CA6149BE45E5)],
)
def test_siphash_of_the_published_vectors(length: int, expected: int) -> None:
    assert siphash(KEY, bytes(range(length))) == expected


def test_frames_are_complete_however_the_bytes_are_split() -> None:
    data = encode(FrameKind.PING, 7, b"abc") + encode(FrameKind.HELLO, 8)
    for cut in range(len(data) + 1):
        decoder = Decoder()
        found = [*decoder.feed(data[:cut]), *decoder.feed(data[cut:])]
        assert found == [Frame(FrameKind.PING, 7, b"abc"), Frame(FrameKind.HELLO, 8, b"")]


def test_noise_between_frames_is_skipped() -> None:
    noise = b"[    0.000000] Linux version \xb1\xc0" + struct.pack("<H", 0xC0B1)
    data = noise + encode(FrameKind.PING, 1, b"x") + noise + encode(FrameKind.PING, 2, b"y")
    assert [frame.id for frame in Decoder().feed(data)] == [1, 2]


def test_a_header_with_a_wrong_length_is_noise() -> None:
    whole = encode(FrameKind.PING, 1, b"x" * 100)
    lie = bytearray(whole)
    lie[8:12] = struct.pack("<I", PAYLOAD_MAX + 1)
    assert [frame.id for frame in Decoder().feed(bytes(lie) + encode(FrameKind.PING, 2))] == [2]


def test_a_payload_too_long_for_a_frame_is_sent_in_several() -> None:
    payload = bytes(range(256)) * 600
    data = encode(FrameKind.EXEC, 9, payload, KEEP_STDIN)
    frames = list(Decoder().feed(data))
    assert [(frame.kind, frame.id) for frame in frames] == [(FrameKind.EXEC, 9)] * 3
    assert b"".join(frame.payload for frame in frames) == payload
    flags, at = [], 0
    for frame in frames:
        flags.append(data[at + 3])
        at += HEADER_LENGTH + len(frame.payload)
    assert flags == [KEEP_STDIN | MORE, KEEP_STDIN | MORE, KEEP_STDIN]
    assert len(list(Decoder().feed(encode(FrameKind.EXEC, 9, bytes(2 * PAYLOAD_MAX))))) == 2
    with pytest.raises(ValueError, match="exceeds the limit"):
        encode(FrameKind.WRITE, 1, bytes(REQUEST_MAX + 1))


def test_a_field_has_a_tag_a_length_and_bytes() -> None:
    assert field(Tag.ARG, "ls") == b"\x10\x02\x00\x00\x00ls"
    assert field(Tag.OFFSET, 5)[5:] == struct.pack("<Q", 5)
    assert HEADER.size == 12


def test_a_ring_has_its_nonce_and_the_sum_of_its_words() -> None:
    nonce = struct.pack("<HHHH", 1, 2, 3, 0xFFFF)
    magic, check, number = RING.unpack(ring(nonce))
    assert (magic, check, number) == (0xC0BE, 5, int.from_bytes(nonce, "little"))
    assert ring_dated(b"four", 7) == b"\xbf\xc0four" + bytes([ord("f") ^ 7]) + b"ourfour"
    assert sendable(ring_dated(b"four", 7)) and not sendable(ring_dated(b"four", ord("f")))


def test_the_answer_depends_on_key_and_nonce() -> None:
    answers = {
        ring_answer(key, nonce) for key in (KEY, bytes(16)) for nonce in (b"a" * 8, b"b" * 8)
    }
    assert len(answers) == 4
