"""The remote side of a remote run; its source is passed as an argument to the other host's Python.

It uses only the standard library, and imports nothing from the harness. It unpacks the harness from
stdin, runs it, reports the digests of the files it has made, and removes the directory. The end of
stdin ends everything; a harness that is running is interrupted first, so that it cleans up. Reports
are lines on stderr that begin with a mark.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import threading
from typing import IO, Any

PATIENCE_S = 120


def parent_directory() -> pathlib.Path:
    """In the cache directory (see harness/paths.py), so that `coppice clean` finds leftovers."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return (
        pathlib.Path(os.environ.get("COPPICE_CACHE") or pathlib.Path(base) / "coppice") / "remote"
    )


def report(mark: str, **values: object) -> None:
    """Write one line of JSON for the other side."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{mark} {json.dumps(values)}\n".encode())


def read_exactly(count: int) -> bytes:
    """Read `count` bytes of stdin. EOFError when it ends before."""
    data = sys.stdin.buffer.read(count)
    if len(data) != count:
        raise EOFError
    return data


def unpack(directory: pathlib.Path, length: int) -> None:
    """Unpack the tar of `length` bytes on stdin; no byte after it is read."""
    archive = directory / "harness.tar"
    with archive.open("wb") as file:
        while length:
            piece = read_exactly(min(length, 1 << 16))
            file.write(piece)
            length -= len(piece)
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):  # since 3.11.4
            tar.extractall(directory, filter="data")
        else:
            tar.extractall(directory)
    archive.unlink()


def pump(source: IO[bytes], target: int) -> None:
    """Copy output to `target`; drained even if the peer has gone, so that no writer blocks."""
    while piece := os.read(source.fileno(), 1 << 16):
        with contextlib.suppress(OSError):
            os.write(target, piece)


def run(directory: pathlib.Path, order: dict[str, Any], lock: int) -> tuple[int, threading.Thread]:
    """Run the harness; its exit code, and the thread that waits for the end of stdin.

    When the other side has gone, the harness is interrupted, and once more if it does not end: the
    second interrupt makes it kill what it started. It inherits the lock, so that the directory has
    an owner while it runs.
    """
    env = {**os.environ, **order["env"], "PYTHONPATH": str(directory), "PYTHONUNBUFFERED": "1"}
    argv = list(order["argv"])
    if argv[0] == "run":
        argv += ["--results", str(directory / "out")]
    child = subprocess.Popen(
        [sys.executable, "-m", "harness", *argv],
        cwd=directory,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(lock,),
        start_new_session=True,
    )
    pumps = [
        threading.Thread(target=pump, args=(child.stdout, 1)),
        threading.Thread(target=pump, args=(child.stderr, 2)),
    ]

    def watch() -> None:
        sys.stdin.buffer.read(1)
        for _ in range(2):
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(PATIENCE_S)
        child.kill()

    watcher = threading.Thread(target=watch, daemon=True)
    for thread in (*pumps, watcher):
        thread.start()
    code = child.wait()
    for thread in pumps:
        thread.join()
    # As a shell says it of a process that a signal has ended.
    return 128 - code if code < 0 else code, watcher


def digests(out: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file in a directory, by relative path."""
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def main(mark: str) -> None:
    order = json.loads(read_exactly(struct.unpack("<Q", read_exactly(8))[0]))
    directory = parent_directory() / order["id"]
    try:
        directory.mkdir(parents=True, mode=0o700)
        lock = (directory / "owner.lock").open("w", encoding="utf-8")
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
        report(mark, directory=str(directory))
        unpack(directory, struct.unpack("<Q", read_exactly(8))[0])
        out = directory / "out"
        out.mkdir()
        report(mark, unpacked=True)
        code, watcher = run(directory, order, lock.fileno())
        report(mark, exit=code, out=str(out), files=digests(out))
        watcher.join()
    except EOFError:
        pass
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        report(mark, failed=f"{error.strerror}: {error.filename or directory}", full=full)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        report(mark, gone=not directory.exists())


if __name__ == "__main__":
    main(sys.argv[1])
