"""Brings what checks built pages, axe and the Nu HTML checker, by npm into .venv/npm.

Runs in set-up, before anything is installed: only the standard library. Nothing of these packages
is run on installing them. Where npm is not there, the checks that need them are skipped.
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
    """Where the packages are, below .venv so that they go with it."""
    return root / ".venv" / "npm"


def _digest(root: Path) -> str:
    return hashlib.sha256(b"".join((root / one).read_bytes() for one in FILES)).hexdigest()


def current(root: Path) -> bool:
    """Whether what the lock file says is there, or nobody could bring it."""
    if shutil.which("npm") is None or not all((root / one).is_file() for one in FILES):
        return True
    stamp = directory(root) / STAMP
    return stamp.is_file() and stamp.read_text() == _digest(root)


def install(root: Path, lock: int) -> None:
    """By npm's lock file, digests checked. Says what went wrong and raises nothing."""
    target = directory(root)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for one in FILES:
        shutil.copy(root / one, target)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    if packages.quietly(command, target, lock):
        print("setup: npm could not bring axe and vnu-jar; their checks are skipped",
              file=sys.stderr)  # fmt: skip
        return
    (target / STAMP).write_text(_digest(root))
