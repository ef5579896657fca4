"""C programs of the package that are compiled on the host that runs them, once, into the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from harness.host.cache import entry
from harness.host.process import run

OPTIONS = (
    "-static", "-O2", "-s", "-Wall", "-Wextra",
    # musl has no headers of Linux: the system's are looked up after its own.
    "-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu",
)  # fmt: skip


def program(
    cache: Path, source: Path, headers: Sequence[Path] = (), options: Sequence[str] = ()
) -> Path:
    """The program of one C file, which may use headers of Linux.

    `headers` are files that it includes, `options` further ones of the compiler. Raises
    MissingTool, CoppiceError (it does not compile) and DiskFull.
    """
    whole = hashlib.sha256(" ".join((*OPTIONS, *options)).encode())
    for file in (source, *headers):
        whole.update(file.name.encode() + b"\0" + file.read_bytes())

    def compile(directory: Path) -> None:
        run("musl-gcc", *OPTIONS, *options, "-o", directory / source.stem, source)

    return entry(cache / "programs" / whole.hexdigest(), compile) / source.stem
