"""A directory that stands for a host of its own: runs in it share nothing with other runs' files.

It lies beside the runtime directory and is locked while it is in use, so that `coppice clean` finds
it, with all runs in it, after its owner was killed.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.host import leftovers
from harness.host.locks import locking
from harness.paths import runtime_directory


@contextlib.contextmanager
def nested_host() -> Iterator[Path]:
    """The directory, which its owner empties; accessible to all users. Its runtime directory is
    `leftovers.RUNTIME` in it."""
    above = runtime_directory().parent
    above.mkdir(parents=True, exist_ok=True)
    host = Path(tempfile.mkdtemp(prefix=leftovers.REBOOTED, dir=above))
    with locking(host):
        host.chmod(0o755)
        (host / leftovers.RUNTIME).mkdir()
        try:
            yield host
        except BaseException:
            with contextlib.suppress(OSError):  # the error says more than what it left
                _remove(host)
            raise
        _remove(host)


def _remove(host: Path) -> None:
    (host / leftovers.RUNTIME).rmdir()
    host.rmdir()
