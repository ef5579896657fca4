"""The guest's kernel: from the distribution's cloud package, unpacked and not installed, or a path.

A compressed bzImage is unpacked to the ELF vmlinux inside it: the VMM then starts it directly and
the guest does not spend half a second of emulated time on decompression.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ImageError
from harness.host.locks import half_built
from harness.host.process import run
from harness.measure.record import digest

META_PACKAGE = "linux-image-cloud-amd64"
ELF = b"\x7fELF"


@dataclass(frozen=True)
class Kernel:
    """A kernel and the directory of its modules (None: everything it needs is built in)."""

    vmlinux: Path
    modules: Path | None
    version: str


def from_distribution(cache: Path) -> Kernel:
    """The newest cloud kernel of this distribution; fetched once, then kept in the cache."""
    kept = sorted((cache / "kernels").glob("linux-image-*"))
    if not kept:
        run("apt-get", "--version")
        depends = run("apt-cache", "depends", META_PACKAGE).decode()
        named = re.search(r"Depends: (linux-image-\S+)", depends)
        if not named:
            raise ImageError(
                f"no {META_PACKAGE} in the package lists", hint="apt-get update, then run it again"
            )
        target = cache / "kernels" / named[1]
        with half_built(target) as directory:
            run("apt-get", "download", "-o", "APT::Sandbox::User=root", named[1], cwd=directory)
            (package,) = directory.glob("*.deb")
            run("dpkg-deb", "-x", package, directory / "unpacked")
            package.unlink()
            (compressed,) = (directory / "unpacked/boot").glob("vmlinuz-*")
            (directory / "vmlinux").write_bytes(extract(compressed.read_bytes(), str(compressed)))
            (modules,) = (directory / "unpacked/lib/modules").iterdir()
            modules.rename(directory / "modules")
            (directory / "version").write_text(modules.name)
        kept = [target]
    home = kept[-1]
    return Kernel(home / "vmlinux", home / "modules", (home / "version").read_text())


def from_path(path: Path, modules: Path | None, cache: Path) -> Kernel:
    """A kernel of the user's own: a bzImage or an ELF vmlinux. ImageError when it is neither."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read the kernel {path}: {error.strerror}") from error
    if data[:4] == ELF:
        return Kernel(path, modules, path.name)
    target = cache / "kernels" / f"path-{digest(path)[:16]}"
    if not target.exists():
        elf = extract(data, str(path))
        with half_built(target) as directory:
            (directory / "vmlinux").write_bytes(elf)
    return Kernel(target / "vmlinux", modules, path.name)


def _lz4(data: bytes) -> bytes:
    # The kernel's lz4 stream has its size appended, which the program takes for one more block.
    import subprocess

    from harness.host.process import need

    done = subprocess.run(
        [need("lz4"), "-dc", "-"],
        input=data[:-4],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return done.stdout


_FORMATS: Mapping[bytes, Callable[[bytes], bytes]] = {
    b"\x02\x21\x4c\x18": _lz4,
    b"\x1f\x8b\x08": gzip.decompress,
    b"\xfd7zXZ\x00": lambda data: lzma.LZMADecompressor().decompress(data),
    b"BZh": bz2.decompress,
}


def extract(data: bytes, where: str) -> bytes:
    """The ELF kernel inside a bzImage (offsets from the x86 boot protocol).

    ImageError when there is none, or not all of it.
    """
    if data[0x202:0x206] != b"HdrS" or len(data) < 0x250:
        raise ImageError(
            f"{where} is not a kernel: neither an ELF vmlinux nor a bzImage",
            hint="leave COPPICE_KERNEL unset to use the distribution's kernel",
        )
    sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = data[start : start + length]
    if len(payload) < length:
        raise ImageError(f"{where} is truncated: {len(payload)} bytes of {length} of its payload")
    for magic, unpack in _FORMATS.items():
        if payload.startswith(magic):
            try:
                elf = unpack(payload)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                raise ImageError(f"{where}: its payload does not unpack: {error}") from error
            if elf[:4] == ELF:
                return elf
    raise ImageError(f"{where}: its payload is compressed in a way that this harness cannot unpack")


def module_files(modules: Path, wanted: Sequence[str]) -> list[Path]:
    """The wanted modules and what they need, in the order in which they must be loaded."""
    files = {path.stem.replace("-", "_"): path for path in modules.rglob("*.ko")}
    built_in = (
        (modules / "modules.builtin").read_text() if (modules / "modules.builtin").exists() else ""
    )
    ordered: list[Path] = []

    def add(name: str) -> None:
        path = files.get(name)
        if path is None:
            if re.search(rf"/{name.replace('_', '[-_]')}\.ko", built_in):
                return
            raise ImageError(f"{modules} has no module {name}")
        if path in ordered:
            return
        depends = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for needed in depends[1].decode().split(",") if depends and depends[1] else ():
            add(needed.replace("-", "_"))
        ordered.append(path)

    for name in wanted:
        add(name)
    return ordered
