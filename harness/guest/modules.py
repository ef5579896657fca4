"""A kernel's modules: finds, orders and unpacks those that a guest needs.

They are unpacked when an image is built, because init_module, by which the agent loads them,
requires that on most kernels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ImageError
from harness.guest import compression

LAYOUTS = ("lib/modules", "usr/lib/modules")
"""Where a package has its modules; /usr since Debian 13."""
SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


@dataclass(frozen=True)
class Module:
    """An unpacked module."""

    name: str
    content: bytes


def directory_in(root: Path) -> Path:
    """The modules' directory in an unpacked package. Raises ImageError unless there is one."""
    found = [path for name in LAYOUTS for path in (root / name).glob("*") if path.is_dir()]
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(root)) for path in found) or "none"
        raise ImageError(
            f"a kernel's package must have one directory in {' or '.join(LAYOUTS)}; found: {names}"
        )
    return found[0]


def wanted(directory: Path, names: Sequence[str]) -> list[Module]:
    """The named modules and their dependencies, in load order.

    Drivers that are built into the kernel are left out. Raises ImageError (a module is missing or
    damaged) and MissingTool.
    """
    files = {_name(path): path for path in directory.rglob("*.ko*") if _is_module(path)}
    built_in = _built_in(directory)
    ordered: dict[str, Module] = {}

    def add(name: str) -> None:
        if name in ordered or (name not in files and name in built_in):
            return
        if name not in files:
            raise ImageError(
                f"{directory} has no module {name}, and the kernel does not list it as built in",
                hint="set COPPICE_KERNEL to a kernel with virtio drivers, and "
                "COPPICE_KERNEL_MODULES to the directory of its modules",
            )
        content = _content(files[name])
        depends = re.search(rb"\0depends=([^\0]*)\0", content)
        for needed in depends[1].decode().split(",") if depends and depends[1] else ():
            add(needed.replace("-", "_"))
        ordered[name] = Module(name, content)

    for name in names:
        add(name)
    return list(ordered.values())


def _is_module(path: Path) -> bool:
    return path.name.endswith(SUFFIXES)


def _name(path: Path | str) -> str:
    return Path(path).name.partition(".ko")[0].replace("-", "_")


def _built_in(directory: Path) -> set[str]:
    listed = directory / "modules.builtin"
    return (
        {_name(line) for line in listed.read_text(encoding="utf-8").splitlines()}
        if listed.exists()
        else set()
    )


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    return data if path.name.endswith(".ko") else compression.unpack(data, str(path))
