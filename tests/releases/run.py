"""Run the main job and the tests of the sandboxes on a minimal Debian of another release.

    .venv/bin/python -m tests.releases.run trixie [--only bench|tests] [-- COMMAND ...]

Needs root, debootstrap and a Debian host. The release's root file system is made by debootstrap
(minbase) and entered by pivot_root in new namespaces (enter.sh); kernel and network are this
machine's. Everything is removed at the end, also after failures. The exit code is that of the first
failed step.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.host.process import need
from tests.releases import root

PLACE = Path("/var/tmp")
PREFIX = "coppice-release-"
ENTER = Path(__file__).with_name("enter.sh")
TESTS = (
    "tests/qemu tests/oci tests/reference tests/network tests/gateway tests/guest "
    "tests/contract tests/package tests/host/test_package_names.py"
)
VERSIONS = (
    "python3 --version; qemu-system-x86_64 --version | head -1; runc --version | head -1; "
    "runsc --version | head -1; dockerd --version; "
    "sed -n 's/^PRETTY_NAME=//p' /etc/os-release; ls ~/.cache/coppice/kernels"
)
STEPS = {
    "bench": "bin/mise run bench",
    "tests": (
        f"bin/setup --tests && .venv/bin/pytest -v -rs {TESTS} --coppice-results=.pytest-results"
    ),
    "clean": ".venv/bin/coppice clean",
    "versions": VERSIONS,
}


@contextlib.contextmanager
def place(release: str) -> Iterator[Path]:
    """A temporary directory for a root; also removes those that killed runs left behind."""
    for old in PLACE.glob(f"{PREFIX}*"):
        # It is in use, or another driver has just removed it.
        with contextlib.suppress(BlockingIOError, FileNotFoundError), _locked(old):
            shutil.rmtree(old)
    made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PLACE))
    with _locked(made):  # until it is gone: a driver that starts now would remove it too
        try:
            (made / release).mkdir()
            yield made / release
        finally:
            shutil.rmtree(made)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def enter(where: Path, command: str) -> int:
    """Run a shell command in the checkout inside a root; its exit code."""
    environment = root.variables(os.environ)
    environment["COPPICE_RELEASE_DIRECTORIES"] = " ".join(root.directories())
    started = subprocess.Popen(
        [
            # It is killed with us, and everything in its PID namespace with it.
            need("setpriv"), "--pdeathsig", "KILL",
            need("unshare"), "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc",
            "--cgroup", "sh", ENTER, where, "sh", "-c", f"cd /{root.INSIDE} && {{ {command}; }}",
        ],
        env=environment,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        return started.wait()
    finally:
        started.kill()
        started.wait()


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.releases.run", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("release", choices=root.RELEASES)
    parser.add_argument("--only", choices=("bench", "tests"), help="run only this part")
    parser.add_argument("--results", type=Path, help="copy the records of bench to this directory")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="run this instead")
    return parser.parse_args(argv)


def steps(options: argparse.Namespace) -> dict[str, str]:
    """The commands to run by name, in order."""
    if options.command:
        return {"command": f"bin/setup && {shlex.join(options.command)}"}
    chosen = [options.only] if options.only else ["bench", "tests"]
    return {name: STEPS[name] for name in (*chosen, "clean", "versions")}


def main(argv: Sequence[str]) -> int:
    options = arguments(argv)
    if os.geteuid() != 0:
        print("needs root to make and enter a root file system: use sudo", file=sys.stderr)
        return 77
    failed = 0
    with place(options.release) as where:
        began = time.monotonic()
        root.make(options.release, where)
        print(f"{options.release}: made in {time.monotonic() - began:.0f} s", flush=True)
        for name, command in steps(options).items():
            began = time.monotonic()
            print(f"{options.release}: {name}: {command}", flush=True)
            code = enter(where, command)
            took = time.monotonic() - began
            print(f"{options.release}: {name}: exit code {code} after {took:.0f} s", flush=True)
            failed = failed or code
        if options.results:
            ignored = shutil.ignore_patterns("published")
            shutil.copytree(
                where / root.INSIDE / "results", options.results, ignore=ignored, dirs_exist_ok=True
            )
    return failed


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
