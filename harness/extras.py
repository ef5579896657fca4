"""Optional parts of this package: what a missing library is called, and the command that brings it.

`pyproject.toml` names them; a host that only measures has none of them.
"""

from __future__ import annotations

from harness import paths
from harness.errors import MissingTool

DISTRIBUTION = "coppice-harness"


def missing(what: str, extra: str, error: ModuleNotFoundError) -> MissingTool:
    """The error of something that needs an extra whose library could not be imported."""
    target = f"-e '.[{extra}]'" if paths.CHECKOUT else f"'{DISTRIBUTION}[{extra}]'"
    where = " in the checkout" if paths.CHECKOUT else ""
    return MissingTool(
        f"{what} needs the Python package {error.name}", hint=f"pip install {target}{where}"
    )
