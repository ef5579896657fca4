"""A sandbox that was made but cannot be handed out is destroyed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from harness.sandbox.pool import Destroyable


@contextlib.contextmanager
def destroyed_on_failure(sandbox: Destroyable) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sandbox.destroy()
        raise
