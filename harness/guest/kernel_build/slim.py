"""The slim kernels in the cache: builds one, lists them, finds the one that guests start with.

An entry is named by the source package's version and a digest of all that it is built from: that
package, the configuration and the compiler.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.errors import DiskFull, ImageError, MissingTool
from harness.guest.kernel import version_order
from harness.guest.kernel_build import configuration, source
from harness.guest.kernel_build.make import Progress, make
from harness.guest.kernel_build.source import SourcePackage
from harness.host import cache as sealed
from harness.host import file_system, package_names
from harness.host.locks import abandoned, half_built_hint, locked, locking
from harness.host.process import run as execute
from harness.host.run import Run
from harness.measure.record import digest

BUILD = "coppice kernel build"
PREFIX = "slim-"
VMLINUX, CONFIGURATION, FACTS = "vmlinux", "config", "built.json"
"""In an entry: the kernel, its whole configuration, and what it was built from."""
TOOLS = (
    "apt-get", "apt-cache", "dpkg-deb", "tar", "xz", "gcc", "ld", "strip", "make", "flex", "bison",
    "bc",
)  # fmt: skip
ELF_HEADER = Path("/usr/include/gelf.h")
UNPACKED = 6
"""A source that is unpacked, and the objects made from it, are less than this many times as large
as its package (measured: 5 for 6.1)."""


@dataclass(frozen=True)
class Built:
    """A slim kernel in the cache. `current`: its configuration is the one of this version."""

    directory: Path
    facts: Mapping[str, str]
    current: bool

    @property
    def vmlinux(self) -> Path:
        return self.directory / VMLINUX

    @property
    def version(self) -> str:
        return f"{self.facts['name']} {self.facts['version']}, slim"


def kept(cache: Path) -> Sequence[Built]:
    """The slim kernels in the cache, oldest source first; damaged ones are left out."""
    own = digest(configuration.SLIM)
    found = []
    for directory in sorted((cache / "kernels").glob(f"{PREFIX}*"), key=version_order):
        if sealed.is_intact(directory):
            facts = json.loads((directory / FACTS).read_text(encoding="utf-8"))
            found.append(Built(directory, facts, facts["configuration_sha256"] == own))
    return found


def newest(cache: Path) -> Built:
    """The slim kernel for guests. Raises ImageError when none was built, or none from this
    configuration."""
    known = kept(cache)
    current = [one for one in known if one.current]
    if current:
        return current[-1]
    why = "was built with an older configuration" if known else "has not been built on this host"
    raise ImageError(f"the slim kernel {why}", hint=f"{BUILD}   (about ten minutes)")


def build(run: Run, cache: Path) -> tuple[Built, bool]:
    """The slim kernel of the source that apt offers now, and whether it was built just now.

    Waits for another build in this cache. Raises MissingTool (all that is missing), DiskFull
    (before anything is downloaded), ImageError, CommandFailed, and CoppiceError of apt.
    """
    require_tools()
    package = source.newest()
    facts = facts_of(package)
    name = f"{PREFIX}{package.version}-{_digest(facts)[:16]}"
    target = cache / "kernels" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if locked(target.parent):
        print("coppice: waiting for another build in this cache", file=sys.stderr)
    with locking(target.parent):
        before = sealed.is_intact(target)
        if not before:
            discard_abandoned(target.parent)
            require_room(target, package)
        sealed.entry(target, lambda directory: fill(run, package, facts, directory))
    return Built(target, facts, current=True), not before


def facts_of(package: SourcePackage) -> dict[str, str]:
    """What a kernel is built from; its digest is part of its name."""
    return {
        **{name: str(value) for name, value in asdict(package).items()},
        "configuration_sha256": digest(configuration.SLIM),
        "compiler": execute("gcc", "--version").decode().splitlines()[0],
        "linker": execute("ld", "--version").decode().splitlines()[0],
    }


def _digest(facts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def fill(run: Run, package: SourcePackage, facts: Mapping[str, str], directory: Path) -> None:
    """Build the kernel in an empty directory, and keep of it what an entry has."""
    work = directory / "work"
    work.mkdir()
    try:
        _build(run, package, directory, work)
    except BaseException:
        print("coppice: removing the unfinished build", file=sys.stderr, flush=True)
        raise
    (directory / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    shutil.rmtree(work)


def _build(run: Run, package: SourcePackage, directory: Path, work: Path) -> None:
    tree = source.unpack(package, work)
    configure(run, tree, str(package))
    progress = Progress()
    make(run, tree, "vmlinux", take=progress.take)
    progress.end()
    execute("strip", "-o", directory / VMLINUX, tree / "vmlinux")
    shutil.copyfile(tree / ".config", directory / CONFIGURATION)


def configure(run: Run, tree: Path, named: str) -> None:
    """Configure a source, and raise ImageError if it does not keep all options."""
    wanted = configuration.parse(configuration.SLIM.read_text(encoding="utf-8"))
    fragment = tree / "coppice.config"
    fragment.write_text(configuration.render(wanted), encoding="utf-8")
    make(run, tree, f"KCONFIG_ALLCONFIG={fragment}", "allnoconfig")
    configuration.require_kept(wanted, tree / ".config", named)


def require_tools() -> None:
    """Raise MissingTool with everything that is missing, and one command that installs it."""
    absent = {tool: package_names.package(tool) for tool in TOOLS if shutil.which(tool) is None}
    if not ELF_HEADER.exists():
        absent[ELF_HEADER.name] = package_names.ELF_HEADERS
    if absent:
        raise MissingTool(
            f"building a kernel needs {', '.join(absent)}, which this host lacks",
            hint=f"apt-get install {' '.join(dict.fromkeys(absent.values()))}",
        )


def require_room(target: Path, package: SourcePackage) -> None:
    """Raise DiskFull if the cache has no room for a build."""
    needed = package.size * (UNPACKED + 2)  # and the package, and the archive in it
    place = file_system.existing(target)
    free = file_system.room(place)
    if free < needed:
        raise DiskFull(
            f"building a kernel from {package} needs {needed >> 20} MiB in {place}, which has "
            f"{max(free, 0) >> 20} MiB to spare",
            hint=half_built_hint(target),
        )


def discard_abandoned(kernels: Path) -> None:
    """Remove what builds that were killed have left."""
    for directory in abandoned(kernels):
        shutil.rmtree(directory, ignore_errors=True)
