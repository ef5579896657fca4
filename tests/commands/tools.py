"""A PATH with exactly the programs that a test needs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLAIN = (
    "sh", "env", "cat", "dirname", "uname", "mktemp", "rm", "mkdir", "sha256sum", "chmod", "mv",
    "cp", "readlink", "id", "find", "printf", "sleep",
)  # fmt: skip


def only(directory: Path, programs: tuple[str, ...] = PLAIN) -> Path:
    """A directory of links to these programs."""
    directory.mkdir(parents=True, exist_ok=True)
    for program in programs:
        found = shutil.which(program)
        if found:
            (directory / program).symlink_to(Path(found).resolve())
    return directory


def script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}", encoding="utf-8")
    path.chmod(0o755)
    return path


def environment(path: str, home: Path) -> dict[str, str]:
    """The environment with this PATH, and with a separate home and cache."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MISE_", "XDG_", "COPPICE_"))
    }
    return {**kept, "PATH": path, "HOME": str(home)}
