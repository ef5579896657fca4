"""Downloads of the distribution's packages, which are not installed."""

from __future__ import annotations

from pathlib import Path

from harness.errors import CoppiceError
from harness.host.process import run


def package(name: str, directory: Path) -> None:
    """Have apt download a package (NAME or NAME=VERSION) into a directory.

    Raises MissingTool, and CoppiceError with what apt said.
    """
    try:
        run("apt-get", "download", "-o", "APT::Sandbox::User=root", name, cwd=directory)
    except CoppiceError as error:
        # A list that is older than the mirror names versions that are gone.
        error.hint = error.hint or "apt-get update, and the same again"
        raise
