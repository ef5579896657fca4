"""Installs the checkers of built pages, axe and the Nu HTML checker, with npm into .venv/npm.

It runs during set-up, before anything is installed, so it uses only the standard library. The
packages' install scripts are not run. Without npm, the tests that need the checkers are skipped.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from harness.setup import packages

FILES = ("tests/site/package.json", "tests/site/package-lock.json")
STAMP = "installed"


def directory(root: Path) -> Path:
    """The directory of the packages; inside .venv, so that both are removed together."""
    return root / ".venv" / "npm"


def _digest(root: Path) -> str:
    return hashlib.sha256(b"".join((root / name).read_bytes() for name in FILES)).hexdigest()


def current(root: Path) -> bool:
    """Whether the packages of the lock file are installed, or cannot be."""
    if shutil.which("npm") is None or not all((root / name).is_file() for name in FILES):
        return True
    stamp = directory(root) / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == _digest(root)


def install(root: Path, lock: int) -> None:
    """Install what npm's lock file pins. Prints an error instead of raising one."""
    target = directory(root)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in FILES:
        shutil.copy(root / name, target)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    if packages.quietly(command, target, lock):
        print("setup: npm could not install axe and vnu-jar; the tests that use them are skipped",
              file=sys.stderr)  # fmt: skip
        return
    (target / STAMP).write_text(_digest(root), encoding="utf-8")
