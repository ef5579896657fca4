"""What a missing library is called, and the command that brings it.

A host that only measures may have fewer packages than this distribution names (a run over ssh needs
six of them); optional ones are extras of `pyproject.toml`.
"""

from __future__ import annotations

from harness import paths
from harness.errors import MissingTool

DISTRIBUTION = "coppice-harness"


def install_command(extra: str = "") -> str:
    """The command that installs this distribution, with an extra if one is named."""
    wanted = f"[{extra}]" if extra else ""
    return (
        f"pip install -e '.{wanted}'" if paths.CHECKOUT else f"pip install '{DISTRIBUTION}{wanted}'"
    )


def missing(what: str, error: ModuleNotFoundError, extra: str = "") -> MissingTool:
    """The error of something whose library could not be imported."""
    where = " in the checkout" if paths.CHECKOUT else ""
    return MissingTool(
        f"{what} needs the Python package {error.name}", hint=f"{install_command(extra)}{where}"
    )
