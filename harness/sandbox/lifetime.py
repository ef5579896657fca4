"""Destroying what a failed launch leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol


class Destroyable(Protocol):
    """A sandbox, as far as pools and launches need to know it."""

    def destroy(self) -> None: ...


@contextlib.contextmanager
def destroyed_on_failure(sandbox: Destroyable) -> Iterator[None]:
    """Destroy the sandbox if the block raises: its launcher cannot return it then."""
    try:
        yield
    except BaseException:
        sandbox.destroy()
        raise
