"""Network namespaces: created under a name in the run's directory, entered by single threads.

A namespace is a mount in the directory of its run, so that the one of a killed run is found and
removed with the directory (see `harness.host.leftovers`), with everything inside.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.errors import MissingPrivilege, Unsupported
from harness.host.own_thread import in_own_thread

_OWN = "/proc/thread-self/ns/net"
_NEWNET, _BIND, _DETACH = 0x40000000, 0x1000, 2
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    """Call a libc function that returns 0 or sets errno."""
    if getattr(_libc, name)(*arguments) == 0:
        return
    number = ctypes.get_errno()
    if number in (errno.EPERM, errno.EACCES):
        raise MissingPrivilege(
            "network namespaces need root", hint="run it again as root, or with sudo"
        )
    if number in (errno.EINVAL, errno.ENOSYS) and name == "unshare":
        raise Unsupported("this kernel has no network namespaces (CONFIG_NET_NS)")
    raise OSError(number, f"{name}: {os.strerror(number)}")


@contextlib.contextmanager
def inside(namespace: Path | int) -> Iterator[None]:
    """Move the calling thread into a namespace (a path, or a process's by PID) for the block.

    Sockets opened and programs started there stay in the namespace. Other threads do not move.
    """
    path = f"/proc/{namespace}/ns/net" if isinstance(namespace, int) else os.fspath(namespace)
    there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        back = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("setns", there, _NEWNET)
            try:
                yield
            finally:
                _call("setns", back, _NEWNET)
        finally:
            os.close(back)
    finally:
        os.close(there)


@contextlib.contextmanager
def namespace(
    directory: Path, name: str, *, again: bool = False, stays: Callable[[], bool] = bool
) -> Iterator[Path]:
    """A new network namespace, mounted on the file in `directory` that is yielded, until the block
    ends, or beyond if it `stays` then.

    The file's name begins with `name`. `again` reuses the namespace that a killed process has left
    there, if any.
    """
    left = [path for path in directory.glob(f"{name}-*") if os.path.ismount(path)] if again else []
    path = left[0] if left else directory / f"{name}-{secrets.token_hex(4)}"
    try:
        if not left:
            path.touch(exist_ok=False)
            in_own_thread(lambda: _create(path))
        try:
            yield path
        finally:
            if not stays():
                _call("umount2", os.fsencode(path), _DETACH)
    finally:
        if not os.path.ismount(path):
            path.unlink(missing_ok=True)


def _create(path: Path) -> None:
    _call("unshare", _NEWNET)
    _call("mount", _OWN.encode(), os.fsencode(path), b"none", _BIND, None)


def in_scratch_namespace(work: Callable[[], None]) -> None:
    """Call `work` in a new namespace that is gone afterwards."""

    def there() -> None:
        _call("unshare", _NEWNET)
        work()

    in_own_thread(there)
