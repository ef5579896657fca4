"""Lint, types and all tests.

In two halves at once: what needs no quiet machine takes, at a low priority, what the tests with
sandboxes leave of the processor. What judges how much one program feels of another comes
when both are done. Rigs take as few samples as show that they work, and wait less for the host to
come to rest. No test gets a second try: one that fails while others run is mended.

Arguments go to each pytest.
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


def tests(*words: str) -> list[str]:
    """The command for one part of the tests."""
    return [program("python"), "-m", "pytest", *words, "--coppice-results=.pytest-results",
            "-p", "no:cacheprovider", *sys.argv[1:]]  # fmt: skip


def run(command: list[str], into: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """Start a command; with a file for what it says, at a low priority.

    Not at the lowest, which is starved where somebody else is at work on the machine too.
    """
    if into is None:
        return subprocess.Popen(command, cwd=ROOT)
    command = ["nice", "-n", "10", *command]
    return subprocess.Popen(command, cwd=ROOT, stdout=into, stderr=subprocess.STDOUT)


def main() -> int:
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["lint-imports"]):
        if code := run([program(command[0]), *command[1:]]).wait():
            return code
    left = [f"--ignore={path}" for path in (*ASIDE, ALONE)]
    with tempfile.TemporaryFile() as said:
        started = {
            "sandboxes": run(tests("tests", *left, "--durations=25")),
            "types": run([program("mypy")], said),
            "aside": run(tests(*ASIDE, "--timeout=900", "--durations=10"), said),
        }
        try:
            codes = {"sandboxes": started["sandboxes"].wait()}
            started["rigs"] = run(tests(*RIGS, "--durations=25"))
            codes |= {name: process.wait() for name, process in started.items()}
        finally:
            for process in started.values():
                process.terminate()
            for process in started.values():  # they take down what they have made
                process.wait()
        codes["bombs"] = run(tests(ALONE)).wait()
        said.seek(0)
        print(said.read().decode(errors="replace"), flush=True)
    print("exit codes:", ", ".join(f"{part} {code}" for part, code in codes.items()))
    return int(any(codes.values()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
