"""The guest's kernel: from the distribution's cloud package (not installed), or from a path.

A bzImage is unpacked to the ELF vmlinux inside it, which the VMM starts directly: otherwise an
emulated guest would spend half a second on decompression.
"""

from __future__ import annotations

import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ImageError
from harness.guest import compression, downloads, modules
from harness.host import package_names
from harness.host.cache import entry, is_intact
from harness.host.process import run
from harness.measure.record import digest

ELF = b"\x7fELF"
EXECUTABLE_X86_64 = (2, 62)
"""The type and machine of an ELF kernel."""
PVH = tuple(struct.pack("<III", 4, size, 18) + b"Xen\0" for size in (4, 8))
"""Heads of the note with the address at which a VMM enters an unpacked kernel."""
ANOTHER = (
    "name slim, a vmlinux or a bzImage; "
    "without --kernel and COPPICE_KERNEL it is the distribution's"
)


@dataclass(frozen=True)
class Kernel:
    """A kernel and the directory of its modules (None: all drivers are built in)."""

    vmlinux: Path
    modules: Path | None
    version: str


def from_distribution(cache: Path) -> Kernel:
    """This distribution's newest kernel for virtual machines; downloaded once, then cached.

    Raises MissingTool, ImageError and CoppiceError (apt failed).
    """
    known = kept(cache)
    if known and is_intact(known[-1]):
        home = known[-1]
    else:
        name = _newest()  # apt may not offer the one that is damaged any more
        home = entry(cache / "kernels" / name, lambda directory: _unpack(name, directory))
    return Kernel(
        home / "vmlinux", home / "modules", (home / "version").read_text(encoding="utf-8")
    )


def kept(cache: Path) -> list[Path]:
    """The distribution's kernels in the cache, oldest first."""
    return sorted((cache / "kernels").glob("linux-image-*"), key=version_order)


def _newest() -> str:
    """The package with the newest kernel that apt offers. Raises MissingTool, ImageError."""
    meta = package_names.kernel()
    run("apt-get", "--version")
    named = re.search(r"Depends: (linux-image-\d\S*)", _depends(meta))
    if not named:
        raise ImageError(f"apt's package lists do not contain {meta}", hint="apt-get update")
    return named[1]


def _unpack(name: str, directory: Path) -> None:
    """Download a kernel's packages, and keep of them what guests need."""
    for package in (name, *parts_of(name, _depends(name))):
        downloads.package(package, directory)
    for file in directory.glob("*.deb"):
        run("dpkg-deb", "-x", file, directory / "unpacked")
        file.unlink()
    compressed = image_in(directory / "unpacked")
    (directory / "vmlinux").write_bytes(extract(compressed.read_bytes(), str(compressed)))
    found = modules.directory_in(directory / "unpacked")
    found.rename(directory / "modules")
    (directory / "version").write_text(found.name, encoding="utf-8")


def _depends(package: str) -> str:
    return run("apt-cache", "depends", package).decode()


def parts_of(package: str, depends: str) -> list[str]:
    """The packages with the parts of a kernel, from the output of `apt-cache depends`: a separate
    package has the modules on Ubuntu; since Debian 14 the kernel package itself is empty."""
    version = re.escape(package.removeprefix("linux-image-"))
    return sorted(set(re.findall(rf"Depends: (linux-[a-z]+-{version})$", depends, re.M)))


def image_in(unpacked: Path) -> Path:
    """The kernel in unpacked packages. Raises ImageError unless there is exactly one."""
    among_modules = (f"{layout}/*/vmlinuz" for layout in modules.LAYOUTS)
    found = [path for name in ("boot/vmlinuz-*", *among_modules) for path in unpacked.glob(name)]
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(unpacked)) for path in found) or "none"
        raise ImageError(f"a kernel's packages must have one vmlinuz; found: {names}")
    return found[0]


def version_order(path: Path) -> list[tuple[int, str]]:
    """Compares numbers as numbers: 6.1.0-9 comes before 6.1.0-57."""
    return [(int(part or 0), text) for text, part in re.findall(r"(\D+)(\d*)", path.name)]


def from_path(path: Path, modules: Path | None, cache: Path) -> Kernel:
    """The user's kernel: a bzImage or an ELF vmlinux. Raises ImageError if it is neither."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would never end
            raise ImageError(f"the kernel {path} is not a file", hint=ANOTHER)
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(
            f"cannot read the kernel {str(path)[:400]}: {error.strerror}", hint=ANOTHER
        ) from error
    if data[:4] == ELF:
        _require_entry(data, path)
        return Kernel(path, modules, path.name)
    target = cache / "kernels" / f"path-{digest(path)[:16]}"

    def unpack(directory: Path) -> None:
        (directory / "vmlinux").write_bytes(extract(data, str(path)))

    return Kernel(entry(target, unpack) / "vmlinux", modules, path.name)


def _require_entry(data: bytes, path: Path) -> None:
    """Raise ImageError for an ELF file that a VMM cannot enter, as every program is."""
    kind = struct.unpack_from("<HH", data, 16) if len(data) >= 20 else None
    if kind != EXECUTABLE_X86_64 or not any(note in data for note in PVH):
        raise ImageError(
            f"{path} is an ELF file, but no x86-64 kernel with a PVH entry (CONFIG_PVH)",
            hint=ANOTHER,
        )
    if (end := _end_of_segments(data)) > len(data):
        raise ImageError(f"{path} is truncated: it has {len(data)} bytes of at least {end}")


def _end_of_segments(data: bytes) -> int:
    """The length that an ELF file must have for all of its segments."""
    if len(data) < 64:
        return 64
    table = int.from_bytes(data[32:40], "little")
    size, count = (int.from_bytes(data[at : at + 2], "little") for at in (54, 56))
    if size < 56 or table + size * count > len(data):
        return max(table + size * count, len(data) + 1)
    end = 0
    for at in range(table, table + size * count, size):
        offset, length = struct.unpack_from("<Q16xQ", data, at + 8)
        end = max(end, int(offset) + int(length))
    return end


def extract(data: bytes, where: str) -> bytes:
    """The ELF kernel inside a bzImage (offsets from the x86 boot protocol).

    Raises ImageError if there is none or if it is truncated.
    """
    if data[0x202:0x206] != b"HdrS" or len(data) < 0x250:
        raise ImageError(
            f"{where} is not a kernel: neither an ELF vmlinux nor a bzImage",
            hint=ANOTHER,
        )
    sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = data[start : start + length]
    if len(payload) < length:
        raise ImageError(f"{where} is truncated: {len(payload)} bytes of {length} of its payload")
    found = compression.find(payload)
    # The kernel's build appends the unpacked size to every format that does not end with it.
    packed = payload if found and found.name == "gzip" else payload[:-4]
    elf = compression.unpack(packed, f"the payload of {where}")
    (size,) = struct.unpack("<I", payload[-4:])
    if len(elf) != size:
        raise ImageError(f"{where} is damaged: its payload holds {len(elf)} bytes, not {size}")
    if elf[:4] != ELF:
        raise ImageError(f"{where} is not a kernel: its payload is not an ELF vmlinux")
    return elf
