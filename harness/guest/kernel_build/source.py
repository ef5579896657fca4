"""The distribution's package with the source of its kernel."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ImageError
from harness.guest import downloads
from harness.host import package_names
from harness.host.process import run
from harness.measure.record import digest

NOT_NEEDED = (
    "arch/[!x]*/*.[chS]", "arch/*.dts*", "drivers/gpu/drm/*.[chS]", "drivers/net/ethernet/*.[ch]",
    "drivers/net/wireless/*.[ch]", "drivers/media/*.[ch]", "drivers/staging/*.[ch]", "sound/*.[ch]",
    "tools/testing/*", "tools/perf/*", "Documentation/*.rst", "Documentation/*.yaml",
)  # fmt: skip
"""More than half of the source's bytes, in files that no slim kernel is built from. Kconfig's files
and makefiles are needed everywhere."""


@dataclass(frozen=True)
class SourcePackage:
    """A package that apt offers. `size` is in bytes; it is hardly larger than the archive in it."""

    name: str
    version: str
    sha256: str
    size: int

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def newest() -> SourcePackage:
    """The source that apt offers. Raises MissingTool, ImageError, and CoppiceError of apt."""
    meta = package_names.kernel_source()
    run("apt-get", "--version")
    named = re.search(r"Depends: (linux-source-\d\S*)", run("apt-cache", "depends", meta).decode())
    if not named:
        raise ImageError(f"apt's package lists do not contain {meta}", hint="apt-get update")
    return parse(run("apt-cache", "show", "--no-all-versions", named[1]).decode())


def parse(stanza: str) -> SourcePackage:
    """The package in the output of `apt-cache show`. Raises ImageError when a field is missing."""
    fields = dict(re.findall(r"^(\w+): (\S+)$", stanza, re.M))
    try:
        return SourcePackage(
            fields["Package"], fields["Version"], fields["SHA256"], int(fields["Size"])
        )
    except (KeyError, ValueError) as error:
        raise ImageError(
            f"apt describes the kernel's source without {error}", hint="apt-get update"
        ) from error


def unpack(package: SourcePackage, directory: Path) -> Path:
    """Download a package into an empty directory and unpack what a build needs; the source's root.

    Raises ImageError (another digest than apt's lists have), and CoppiceError of a program.
    """
    _tell(f"downloading {package}, {package.size >> 20} MiB")
    downloads.package(f"{package.name}={package.version}", directory)
    (deb,) = directory.glob("*.deb")
    if (found := digest(deb)) != package.sha256:
        raise ImageError(
            f"{package} was downloaded with the SHA-256 {found}, not {package.sha256}",
            hint="apt-get update",
        )
    _tell("unpacking it")
    run("dpkg-deb", "-x", deb, directory / "package")
    deb.unlink()
    return unpack_archive(directory / "package" / "usr" / "src", directory / "tree")


def unpack_archive(packed: Path, tree: Path) -> Path:
    """Unpack the one archive of a directory, and remove it. Raises ImageError if there is none."""
    archives = list(packed.glob("linux-source-*.tar.xz"))
    if len(archives) != 1:
        raise ImageError(f"a kernel's source package must have one archive, not {len(archives)}")
    tree.mkdir()
    root = archives[0].name.removesuffix(".tar.xz")
    without = [f"--exclude={root}/{pattern}" for pattern in NOT_NEEDED]
    run(
        "tar", "-xJf", archives[0], "-C", tree, "--strip-components=1", "--anchored",
        "--wildcards", "--wildcards-match-slash", *without,
    )  # fmt: skip
    archives[0].unlink()
    return tree


def _tell(what: str) -> None:
    print(f"coppice: {what}", file=sys.stderr, flush=True)
