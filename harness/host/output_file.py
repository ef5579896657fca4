"""A file that the user has named for a result: written completely or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.errors import PathError
from harness.failures import typed
from harness.host.scratch import temporary_directory

PARTIAL = ".half-written-"
"""Prefix of a file that is not complete yet."""


def replace(target: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file, and give it the name `target`, in place of what has it now. A device
    or a pipe gets what a file would. Raises DiskFull or PathError with that name."""
    if _is_stream(target):
        with _named(target), temporary_directory() as made:
            write(made / "whole")
            with (made / "whole").open("rb") as whole, target.open("wb") as stream:
                shutil.copyfileobj(whole, stream)
        return
    with _named(target):
        real = target.resolve()  # a link stays
        if real.is_dir():
            raise IsADirectoryError(21, os.strerror(21))
        handle, name = tempfile.mkstemp(dir=real.parent, prefix=PARTIAL)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.chmod(0o644)
            temporary.replace(real)
        finally:
            temporary.unlink(missing_ok=True)


def _is_stream(target: Path) -> bool:
    """Whether a rename to this path would replace something else than a file, such as a device, or
    miss the file that is meant, as with /dev/stdout."""
    links = {Path("/dev"), Path("/proc")} & {*target.absolute().parents}
    return bool(links) or (target.exists() and not target.is_file() and not target.is_dir())


@contextlib.contextmanager
def _named(target: Path) -> Iterator[None]:
    """Raise the typed error of an OSError of the block, with the name that the user knows."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        known = typed(OSError(error.errno, why, str(target)))
        raise known or PathError(f"{target} cannot be written: {why}") from error
