"""Unpacks what kernels and their modules are compressed with, told apart by the first bytes.

Python's standard library reads gzip, bzip2, lzma and xz; lz4, lzo and zstd need their programs.
"""

from __future__ import annotations

import bz2
import lzma
import subprocess
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.errors import ImageError
from harness.host.process import need


@dataclass(frozen=True)
class Compression:
    """One format: its name, the bytes that its data begin with, and what unpacks it.

    `unpack` raises OSError, EOFError, ValueError, zlib.error or lzma.LZMAError on damaged data.
    """

    name: str
    magic: bytes
    unpack: Callable[[bytes], bytes]


def _gzip(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    return _whole(unpacker.decompress(data) + unpacker.flush(), unpacker.eof)


def _bzip2(data: bytes) -> bytes:
    unpacker = bz2.BZ2Decompressor()
    return _whole(unpacker.decompress(data), unpacker.eof)


def _lzma(data: bytes) -> bytes:
    # This header has no end mark where it states a size, and liblzma stops there as well.
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_ALONE)
    return _whole(unpacker.decompress(data), unpacker.eof)


def _xz(data: bytes) -> bytes:
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    return _whole(unpacker.decompress(data), unpacker.eof)


def _whole(data: bytes, ended: bool) -> bytes:
    if not ended:
        raise EOFError("the compressed data end too early")
    return data


def _by_program(program: str) -> Callable[[bytes], bytes]:
    def unpack(data: bytes) -> bytes:
        """Raises MissingTool too."""
        done = subprocess.run([need(program), "-dc"], input=data, capture_output=True)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise OSError(f"{program} failed: {said[-1] if said else done.returncode}")
        return done.stdout

    return unpack


FORMATS: Sequence[Compression] = (
    Compression("gzip", b"\x1f\x8b\x08", _gzip),
    Compression("bzip2", b"BZh", _bzip2),
    Compression("lzma", b"\x5d\0\0", _lzma),
    Compression("xz", b"\xfd7zXZ\0", _xz),
    Compression("lzo", b"\x89LZO\0\r\n\x1a\n", _by_program("lzop")),
    Compression("lz4", b"\x02\x21\x4c\x18", _by_program("lz4")),
    Compression("zstd", b"\x28\xb5\x2f\xfd", _by_program("zstd")),
)
"""All that the kernel's build offers for bzImages on x86, and of modules those in use. The lz4 is
its old format."""


def find(data: bytes) -> Compression | None:
    """The format that data begin as; None when it is none of these."""
    return next((one for one in FORMATS if data.startswith(one.magic)), None)


def unpack(data: bytes, where: str) -> bytes:
    """What compressed data of a known format hold.

    Raises ImageError (unknown or damaged) and MissingTool.
    """
    found = find(data)
    if found is None:
        known = ", ".join(one.name for one in FORMATS)
        raise ImageError(
            f"{where} is compressed in an unknown format (it begins with {data[:4].hex(' ')}); "
            f"known are {known}"
        )
    try:
        return found.unpack(data)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise ImageError(
            f"{where} is damaged: its {found.name} does not unpack: {error}"
        ) from error
