"""Lint, types and all tests.

In two halves at once: what needs no quiet machine takes, at the lowest priority, what the tests
with sandboxes leave of the processor. What judges how much one program feels of another comes
when both are done, and so does a second try, each half by itself, of the few tests that failed
while others ran. Those that pass then are named; those that fail again fail the whole.

Arguments go to each pytest.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".pytest_cache"
ALONE = "tests/isolation/test_bombs.py"
ASIDE = (
    "tests/claims", "tests/freebsd", "tests/site", "tests/commands",
    "tests/measure/test_benchmark.py", "tests/measure/test_comparison.py",
    "tests/measure/test_oracle.py",
)  # fmt: skip
SECOND_TRIES = 3
"""Where more than this fail in one half, none is tried again."""


def program(name: str) -> str:
    return str(ROOT / ".venv" / "bin" / name)


def tests(name: str, *words: str) -> list[str]:
    """The command for one part of the tests; what failed is remembered under its name."""
    return [program("pytest"), *words, "--results=.pytest-results", "-o",
            f"cache_dir={CACHE / name}", *sys.argv[1:]]  # fmt: skip


def run(command: list[str], into: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """Start a command; with a file for what it says, at the lowest priority."""
    if into is None:
        return subprocess.Popen(command, cwd=ROOT)
    command = ["nice", "-n", "19", *command]
    return subprocess.Popen(command, cwd=ROOT, stdout=into, stderr=subprocess.STDOUT)


def failed(name: str) -> list[str]:
    """The tests of one part that failed."""
    kept = CACHE / name / "v" / "cache" / "lastfailed"
    return sorted(json.loads(kept.read_text())) if kept.exists() else []


def once_more(name: str, code: int) -> int:
    """A second try of one part's failures, if they are few; the exit code that counts."""
    few = failed(name)
    if code != 1 or not 0 < len(few) <= SECOND_TRIES:
        return code
    again = run(tests(name, "--last-failed", "--last-failed-no-failures=none")).wait()
    print(f"failed while others ran, by themselves {'passed' if again == 0 else 'failed again'}:")
    print(*few, sep="\n", flush=True)
    return again


def main() -> int:
    for words in (["check", "."], ["format", "--check", "."]):
        if code := run([program("ruff"), *words]).wait():
            return code
    shutil.rmtree(CACHE, ignore_errors=True)
    left = [f"--ignore={path}" for path in (*ASIDE, ALONE)]
    with tempfile.TemporaryFile() as said:
        started = {
            "sandboxes": run(tests("sandboxes", "tests", "rigs", *left, "--durations=25")),
            "types": run([program("mypy")], said),
            "aside": run(tests("aside", *ASIDE, "--durations=10"), said),
        }
        try:
            codes = {name: process.wait() for name, process in started.items()}
        finally:
            for process in started.values():
                process.terminate()
        codes["bombs"] = run(tests("bombs", ALONE)).wait()
        said.seek(0)
        print(said.read().decode(errors="replace"), flush=True)
    for part in ("sandboxes", "aside"):
        codes[part] = once_more(part, codes[part])
    print("exit codes:", ", ".join(f"{part} {code}" for part, code in codes.items()))
    return int(any(codes.values()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
