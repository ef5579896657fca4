"""Set-up: distribution packages, then .venv from pinned requirements with hashes.

It runs under the system's Python before anything is installed, so it uses only the standard
library. A stamp file records what is done, so that a second run does nothing; a lock lets only one
set-up run at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import command_log
from harness.setup import packages, web_checks

ROOT = Path(__file__).parents[2]
INPUTS = ("requirements.lock", "pyproject.toml", "harness/setup/environment.py")
STAMP = ".setup-stamp"


class SetupFailed(Exception):
    """A step failed; the message is one sentence for the user."""


@contextlib.contextmanager
def locked(root: Path) -> Iterator[int]:
    """Hold the set-up lock of a checkout; waits for another set-up.

    Yields the lock's file descriptor. Children inherit it, so that a pip whose parent was killed
    still blocks the next set-up.
    """
    descriptor = os.open(root / ".setup.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("setup: waiting for another set-up of this checkout", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def state(root: Path) -> str:
    """A digest of what .venv is made from and of its path: an environment cannot be moved."""
    whole = hashlib.sha256(os.fsencode(root))
    # The interpreter may have been replaced by another version, or removed.
    whole.update(os.fsencode(os.path.realpath(root / ".venv" / "bin" / "python")))
    for name in INPUTS:
        path = root / name
        whole.update(path.read_bytes() if path.exists() else b"")
    return whole.hexdigest()


def read_stamp(root: Path) -> dict[str, object]:
    """The content of the stamp; empty where there is none, or an unreadable one."""
    try:
        found = json.loads((root / ".venv" / STAMP).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_stamp(root: Path, **done: object) -> None:
    """Update the stamp atomically."""
    path = root / ".venv" / STAMP
    new = path.with_suffix(".new")
    new.write_text(json.dumps({**read_stamp(root), **done}), encoding="utf-8")
    new.replace(path)


def environment_is_current(root: Path) -> bool:
    """Whether .venv exists and was made from the current inputs."""
    python = root / ".venv" / "bin" / "python"
    return os.access(python, os.X_OK) and read_stamp(root).get("environment") == state(root)


def make_environment(root: Path, lock: int) -> None:
    """Recreate .venv. Raises SetupFailed."""
    venv = root / ".venv"
    print("setup: the virtual environment .venv (about a minute)", file=sys.stderr, flush=True)
    # Removed first, written last: an interrupted set-up must leave no stamp.
    (venv / STAMP).unlink(missing_ok=True)
    _run([sys.executable, "-m", "venv", "--clear", str(venv)], root, lock)
    pip = [str(venv / "bin" / "pip"), "--disable-pip-version-check", "--no-input", "install", "-q"]
    _run([*pip, "--require-hashes", "-r", "requirements.lock"], root, lock)
    _run([*pip, "--no-deps", "--no-build-isolation", "-e", "."], root, lock)


def _run(command: Sequence[str], root: Path, lock: int) -> None:
    if code := packages.quietly(command, root, lock):
        raise SetupFailed(f"{shlex.join(command)} exited with {code}; its output is above")


def set_up(root: Path, tests: bool, again: bool) -> None:
    """Do the missing steps, or every step `again`. Raises SetupFailed."""
    with locked(root) as lock:
        given_up = set() if again else read_stamp(root).get("given_up", ())
        assert isinstance(given_up, set | list | tuple)
        # Packages that were unavailable before are not tried at every run.
        wanted = set(packages.missing(tests)) - set(given_up)
        left = packages.install(tests) if wanted else None
        if again or not environment_is_current(root):
            make_environment(root, lock)
            write_stamp(root, environment=state(root), given_up=sorted({*given_up, *(left or ())}))
            print("setup: done", file=sys.stderr)
        elif left is not None:
            write_stamp(root, given_up=sorted({*given_up, *left}))
        if tests and (again or not web_checks.current(root)):
            web_checks.install(root, lock)


def main(argv: Sequence[str] | None = None) -> int:
    """0 done; 69 a step failed; 130 interrupted."""
    parser = argparse.ArgumentParser(prog="setup", description=__doc__)
    parser.add_argument(
        "--tests", action="store_true", help="also install what only the tests need"
    )
    parser.add_argument(
        "--again", action="store_true", help="repeat every step, and retry unavailable packages"
    )
    options = parser.parse_args(argv)
    command_log.start()
    try:
        set_up(ROOT, options.tests, options.again)
    except SetupFailed as error:
        print(f"setup: {error}", file=sys.stderr)
        return 69
    except KeyboardInterrupt:
        print("setup: interrupted; run it again to finish", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
