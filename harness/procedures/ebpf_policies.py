"""Policies in eBPF maps, for comparison: a trie for each sandbox, in a map of maps.

Uses bpf(2) directly, without a library. No program is loaded: only updates are measured. A trie is
changed in place, which is not atomic for readers, or replaced, which is atomic, and for which the
kernel waits until no reader uses the old one (RCU).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence

from harness.errors import MissingPrivilege, Unsupported

_CREATE, _LOOKUP, _UPDATE, _UPDATE_BATCH, _DELETE_BATCH = 0, 1, 2, 26, 27
_LPM_TRIE, _HASH_OF_MAPS = 11, 13
_NO_PREALLOC = 1
_KEY = struct.Struct("=I4s")
_VALUE = struct.pack("=I", 1)
_CALLS = {"x86_64": 321, "aarch64": 280}
_MOST = 1 << 17
_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> int:
    number = _CALLS.get(platform.machine())
    if number is None:
        raise Unsupported(f"the system call number of bpf(2) on {platform.machine()} is unknown")
    found = _libc.syscall(number, command, attributes, len(attributes))
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf({command}): {os.strerror(code)}")
    return int(found)


def _create(kind: int, value_size: int, key_size: int, inner: int = 0) -> int:
    flags = _NO_PREALLOC if kind == _LPM_TRIE else 0
    attributes = struct.pack("=7I16s", kind, key_size, value_size, _MOST, flags, inner, 0, b"")
    try:
        return _bpf(_CREATE, attributes)
    except PermissionError as error:
        raise MissingPrivilege("eBPF maps need root", hint="run it again as root") from error
    except OSError as error:
        raise Unsupported(f"this kernel has no eBPF map of type {kind}: {error}") from error


def _address(data: bytes) -> int:
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0


def pack(addresses: Sequence[bytes]) -> bytes:
    """Keys of a trie: IPv4 addresses, each preceded by its prefix length, 32."""
    before = struct.pack("=I", 32)
    return before + before.join(addresses) if addresses else b""


class Tries:
    """A map from a sandbox's number to the trie of addresses that it may reach."""

    def __init__(self) -> None:
        sample = _create(_LPM_TRIE, 4, _KEY.size)
        try:
            self._outer = _create(_HASH_OF_MAPS, 4, 4, sample)
        finally:
            os.close(sample)
        self._inner: dict[int, int] = {}

    def close(self) -> None:
        for handle in (*self._inner.values(), self._outer):
            os.close(handle)
        self._inner.clear()

    def add(self, sandbox: int, keys: bytes) -> None:
        """Add a sandbox with a trie of keys made by `pack`."""
        self.swap(sandbox, keys)

    def update(self, sandbox: int, old: bytes, new: bytes) -> None:
        """Remove keys from a trie and add others, in two batches."""
        handle = self._inner[sandbox]
        _batch(_DELETE_BATCH, handle, old)
        _batch(_UPDATE_BATCH, handle, new)

    def swap(self, sandbox: int, keys: bytes) -> None:
        """Fill a new trie and replace the old one by it, atomically."""
        handle = _create(_LPM_TRIE, 4, _KEY.size)
        try:
            _batch(_UPDATE_BATCH, handle, keys)
            key, value = struct.pack("=I", sandbox), struct.pack("=I", handle)
            self._set(self._outer, key, value)
        except BaseException:
            os.close(handle)
            raise
        before = self._inner.get(sandbox)
        self._inner[sandbox] = handle
        if before is not None:
            os.close(before)

    def holds(self, sandbox: int, address: bytes) -> bool:
        """Whether the trie has an entry for an address."""
        key, value = _KEY.pack(32, address), bytes(4)
        attributes = struct.pack(
            "=IIQQQ", self._inner[sandbox], 0, _address(key), _address(value), 0
        )
        try:
            _bpf(_LOOKUP, attributes)
        except FileNotFoundError:
            return False
        return True

    @staticmethod
    def _set(handle: int, key: bytes, value: bytes) -> None:
        attributes = struct.pack("=IIQQQ", handle, 0, _address(key), _address(value), 0)
        _bpf(_UPDATE, attributes)


def _batch(command: int, handle: int, keys: bytes) -> None:
    count = len(keys) // _KEY.size
    if not count:
        return
    values = _VALUE * count
    attributes = struct.pack(
        "=QQQQIIQQ", 0, 0, _address(keys), _address(values), count, handle, 0, 0
    )
    _bpf(command, attributes)
