"""Frames, fields, the keyed hash and the doorbell, without any guest."""

from __future__ import annotations

import random
import struct

import pytest

from harness.guest.protocol import (
    HEADER,
    HEADER_LENGTH,
    MAGIC,
    PAYLOAD_MAX,
    RING,
    RING_ANSWER_LENGTH,
    RING_MAGIC,
    Decoder,
    Frame,
    Kind,
    Tag,
    _fnv1a,
    encode,
    field,
    ring,
    ring_answer,
    siphash,
)

KEY = bytes(range(16))

# Published with SipHash (vectors.h of its reference implementation): the hash of the first n
# bytes 00 01 02 ... under the key 00 01 ... 0f, as the eight bytes that it writes.
VECTORS = {
    0: "310e0edd47db6f72",
    1: "fd67dc93c539f874",
    2: "5a4fa9d909806c0d",
    3: "2d7efbd796666785",
    4: "b7877127e09427cf",
    5: "8da699cd64557618",
    6: "cee3fe586e46c9cb",
    7: "37d1018bf50002ab",
    8: "6224939a79f5f593",
    15: "e545be4961ca29a1",
}


def whole(data: bytes) -> list[Frame]:
    return list(Decoder().feed(data))


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(256)) * 16, bytes(PAYLOAD_MAX)])
def test_a_frame_comes_back_as_it_was_sent(kind: Kind, payload: bytes) -> None:
    assert whole(encode(kind, 0xFFFFFFFF, payload)) == [Frame(kind, 0xFFFFFFFF, payload)]


def test_a_payload_too_long_for_one_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        encode(Kind.WRITE, 1, bytes(PAYLOAD_MAX + 1))


def test_frames_split_at_every_byte_are_put_together() -> None:
    frames = [
        Frame(Kind.STDOUT, 7, b"one"),
        Frame(Kind.EXIT, 7, bytes(8)),
        Frame(Kind.ANSWER, 8, b""),
    ]
    data = b"".join(encode(Kind(frame.kind), frame.id, frame.payload) for frame in frames)
    for cut in range(len(data) + 1):
        decoder = Decoder()
        assert [*decoder.feed(data[:cut]), *decoder.feed(data[cut:])] == frames
    decoder = Decoder()
    assert [frame for at in range(len(data)) for frame in decoder.feed(data[at : at + 1])] == frames


@pytest.mark.parametrize(
    "noise",
    [
        b"[    1.234567] printk: a kernel message\r\n",
        struct.pack("<H", MAGIC),
        struct.pack("<H", MAGIC) * 40,
        encode(Kind.STDOUT, 3, b"cut off")[: HEADER_LENGTH - 1],
        bytes(100),
    ],
)
def test_noise_between_frames_is_stepped_over(noise: bytes) -> None:
    first, second = encode(Kind.STDOUT, 1, b"first"), encode(Kind.EXIT, 1, b"second")
    frames = whole(noise + first + noise + second + noise)
    assert [frame.payload for frame in frames] == [b"first", b"second"]


def test_random_noise_hides_no_frame() -> None:
    generator = random.Random(20)
    decoder, found = Decoder(), 0
    for number in range(200):
        noise = generator.randbytes(generator.randrange(60))
        found += sum(
            frame == Frame(Kind.ANSWER, number, b"here")
            for frame in decoder.feed(noise + encode(Kind.ANSWER, number, b"here"))
        )
    assert found == 200


def test_a_length_that_lies_is_noise_when_its_check_does_not_fit() -> None:
    lying = bytearray(encode(Kind.STDOUT, 1, b"payload"))
    struct.pack_into("<I", lying, 8, 60_000)
    frames = whole(bytes(lying) + encode(Kind.EXIT, 1, b"true"))
    assert [frame.payload for frame in frames] == [b"true"]


@pytest.mark.parametrize("length", [PAYLOAD_MAX + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_length_beyond_the_limit_is_noise_even_with_a_right_check(length: int) -> None:
    head = HEADER.pack(MAGIC, Kind.STDOUT, 0, 1, length)
    lying = head + struct.pack("<I", _fnv1a(head))
    frames = whole(lying + encode(Kind.EXIT, 1, b"true"))
    assert [frame.payload for frame in frames] == [b"true"]


@pytest.mark.parametrize("at", range(HEADER_LENGTH))
def test_a_changed_header_byte_costs_its_frame_and_no_other(at: int) -> None:
    broken = bytearray(encode(Kind.STDOUT, 1, b"lost"))
    broken[at] ^= 0x55
    frames = whole(bytes(broken) + encode(Kind.EXIT, 2, b"kept"))
    assert [frame.payload for frame in frames] == [b"kept"]


def test_fields_carry_their_length_and_numbers_are_eight_bytes() -> None:
    assert field(Tag.PATH, "/é") == bytes([Tag.PATH, 3, 0, 0, 0]) + "/é".encode()
    assert field(Tag.DATA, b"") == bytes([Tag.DATA, 0, 0, 0, 0])
    assert field(Tag.OFFSET, 258) == bytes([Tag.OFFSET, 8, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(("length", "published"), VECTORS.items())
def test_siphash_gives_the_published_values(length: int, published: str) -> None:
    assert siphash(KEY, bytes(range(length))).to_bytes(8, "little").hex() == published


def test_siphash_depends_on_the_key() -> None:
    values = {siphash(bytes([bit]) + KEY[1:], b"nonce") for bit in range(64)}
    assert len(values) == 64


def test_a_ring_carries_its_nonce_and_a_check_over_it() -> None:
    nonce = bytes.fromhex("ffff010002000300")
    magic, check, number = RING.unpack(ring(nonce))
    assert (magic, number.to_bytes(8, "little")) == (RING_MAGIC, nonce)
    assert check == sum(struct.unpack("<4H", nonce)) & 0xFFFF


def test_a_ring_is_answered_by_the_lower_half_of_the_hash() -> None:
    nonce = bytes(range(8))
    published = bytes.fromhex(VECTORS[8])
    assert ring_answer(KEY, nonce) == published[:RING_ANSWER_LENGTH]
    assert ring_answer(KEY[::-1], nonce) != published[:RING_ANSWER_LENGTH]
