"""Lint, types and all tests.

Tests that need no quiet machine run at low priority beside the tests with sandboxes. Those that
measure interference between programs run at the end, alone. Rigs take just enough samples to show
that they work, and wait less for the host to settle. Failed tests are never retried: a test that
fails while others run must be fixed.

Arguments are passed to every pytest.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
ALONE = "tests/isolation/test_bombs.py"
ASIDE = (
    "tests/claims", "tests/docs", "tests/freebsd", "tests/site", "tests/commands",
    "tests/measure/test_benchmark.py", "tests/measure/test_comparison.py",
    "tests/measure/test_oracle.py",
)  # fmt: skip
RIGS = ("rigs", "--coppice-profile=smoke", "-p", "tests.qemu.hurried")


def program(name: str) -> str:
    return str(ROOT / ".venv" / "bin" / name)


def tests(*arguments: str) -> list[str]:
    """The command for a part of the tests."""
    return [program("python"), "-m", "pytest", *arguments, "--coppice-results=.pytest-results",
            "-p", "no:cacheprovider", *sys.argv[1:]]  # fmt: skip


def run(command: list[str], output: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """Start a command; with a file for its output, at low priority.

    Not at the lowest, which would starve if the machine has other work, too.
    """
    if output is None:
        return subprocess.Popen(command, cwd=ROOT)
    command = ["nice", "-n", "10", *command]
    return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)


def main() -> int:
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["lint-imports"]):
        if code := run([program(command[0]), *command[1:]]).wait():
            return code
    left = [f"--ignore={path}" for path in (*ASIDE, ALONE)]
    with tempfile.TemporaryFile() as output:
        started = {
            "sandboxes": run(tests("tests", *left, "--durations=25")),
            "types": run([program("mypy")], output),
            "aside": run(tests(*ASIDE, "--timeout=900", "--durations=10"), output),
        }
        try:
            codes = {"sandboxes": started["sandboxes"].wait()}
            started["rigs"] = run(tests(*RIGS, "--durations=25"))
            codes |= {name: process.wait() for name, process in started.items()}
        finally:
            for process in started.values():
                process.terminate()
            for process in started.values():  # they clean up
                process.wait()
        codes["bombs"] = run(tests(ALONE)).wait()
        output.seek(0)
        print(output.read().decode(errors="replace"), flush=True)
    print("exit codes:", ", ".join(f"{part} {code}" for part, code in codes.items()))
    return int(any(codes.values()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
