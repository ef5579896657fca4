"""Coppice: measures what people claim about sandboxes, on your machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str


def __getattr__(name: str) -> str:
    """`__version__` says which commit this is; it is looked up only when it is needed."""
    if name != "__version__":
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("coppice-harness")
    except PackageNotFoundError:
        return "0+unknown"
