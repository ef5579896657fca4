"""The far end of a remote run: its whole text is sent as an argument to a host's Python.

Only the standard library, and no import of ours: it unpacks the harness that follows on stdin,
runs it, tells what it made by digest, and removes the directory. The end of stdin ends everything:
while the harness runs it is interrupted first, so that what it made goes away. What is said to the
near end is a line of stderr that begins with a mark.
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
    """In the cache directory (harness/paths.py): what is left there can be found, and removed."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return (
        pathlib.Path(os.environ.get("COPPICE_CACHE") or pathlib.Path(base) / "coppice") / "remote"
    )


def say(mark: str, **words: object) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"\n{mark} {json.dumps(words)}\n".encode())


def exactly(count: int) -> bytes:
    data = sys.stdin.buffer.read(count)
    if len(data) != count:
        raise EOFError
    return data


def unpack(directory: pathlib.Path, length: int) -> None:
    """The archive is on stdin; what is read of it is counted, so that the rest is not taken."""
    archive = directory / "harness.tar"
    with archive.open("wb") as file:
        while length:
            piece = exactly(min(length, 1 << 16))
            file.write(piece)
            length -= len(piece)
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):  # from 3.11.4 on
            tar.extractall(directory, filter="data")
        else:
            tar.extractall(directory)
    archive.unlink()


def pump(source: IO[bytes], target: int) -> None:
    """Pass output on; it is read on when nobody takes it any more, so that no writer waits."""
    while piece := os.read(source.fileno(), 1 << 16):
        with contextlib.suppress(OSError):
            os.write(target, piece)


def run(directory: pathlib.Path, order: dict[str, Any], lock: int) -> tuple[int, threading.Thread]:
    """The harness's exit code. It is interrupted when the near end has gone, and a second time
    when that does not end it: then it kills what it started, and clears up after it.

    It holds the lock too: as long as it runs, the directory is somebody's.
    """
    env = {**os.environ, **order["env"], "PYTHONPATH": str(directory), "PYTHONUNBUFFERED": "1"}
    argv = list(order["argv"])
    if argv[0] == "run":
        argv += ["--results", str(directory / "out")]
    child = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *argv],
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
    return code, watcher


def made(out: pathlib.Path) -> dict[str, str]:
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def main(mark: str) -> None:
    order = json.loads(exactly(struct.unpack("<Q", exactly(8))[0]))
    directory = parent_directory() / order["id"]
    try:
        directory.mkdir(parents=True, mode=0o700)
        lock = (directory / "owner.lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
        say(mark, directory=str(directory))
        unpack(directory, struct.unpack("<Q", exactly(8))[0])
        out = directory / "out"
        out.mkdir()
        say(mark, unpacked=True)
        code, watcher = run(directory, order, lock.fileno())
        say(mark, exit=code, out=str(out), files=made(out))
        watcher.join()
    except EOFError:
        pass
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        say(mark, failed=f"{error.strerror}: {error.filename or directory}", full=full)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        say(mark, gone=not directory.exists())


if __name__ == "__main__":
    main(sys.argv[1])
