"""The VMM, the guest's program, and the image of a guest that has not run: compiled once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import paths
from harness.host.cache import entry
from harness.host.compiled import program
from harness.host.process import run
from harness.measure.record import Image, digest
from harness.sandbox.qemu.confinement import chosen

VMM = paths.FLOOR_PROGRAMS / "vmm.c"
_GUEST = (paths.FLOOR_PROGRAMS / "guest.c", paths.AGENT / "siphash.c")
_LAYOUT = paths.FLOOR_PROGRAMS / "guest.ld"
_GUEST_READS = (paths.FLOOR_PROGRAMS / "layout.h", *(
    paths.AGENT / name for name in ("frame.h", "siphash.h")
))  # fmt: skip
_GUEST_OPTIONS = (
    "-static", "-nostdlib", "-ffreestanding", "-fno-pic", "-no-pie", "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns", "-mgeneral-regs-only",
    # Its code has to fit into one page, and with -O2 GCC 14 makes a tenth more than that of it.
    "-Os", "-Wall", "-Wextra", "-Wl,--build-id=none", "-Wl,--oformat=binary",
)  # fmt: skip


@dataclass(frozen=True)
class Programs:
    """The paths of the VMM and of the image of a guest that has not run."""

    vmm: Path
    image: Path
    built_from: str
    """A digest of every source."""

    @property
    def images(self) -> Sequence[Image]:
        facts = {"sources_sha256": self.built_from}
        return [
            Image("kvm-floor-vmm", digest(self.vmm), {**facts, "confinement": str(chosen())}),
            Image("kvm-floor-program", digest(self.image), facts),
        ]


def build(cache: Path) -> Programs:
    """The programs, from the cache or compiled now.

    Raises MissingTool, CoppiceError (one does not compile, or KVM refuses a step) and DiskFull.
    """
    headers = sorted(paths.FLOOR_PROGRAMS.glob("*.h"))
    vmm = program(cache, VMM, headers)
    whole = hashlib.sha256(vmm.parent.name.encode())
    for file in (*_GUEST, *_GUEST_READS, _LAYOUT):
        whole.update(file.name.encode() + b"\0" + file.read_bytes())
    whole.update(" ".join(_GUEST_OPTIONS).encode())
    built_from = whole.hexdigest()

    def fill(directory: Path) -> None:
        flat = directory / "guest"
        options = (*_GUEST_OPTIONS, f"-I{paths.AGENT}", f"-Wl,-T,{_LAYOUT}")
        run("musl-gcc", *options, "-o", flat, *_GUEST)
        run(str(vmm), "make", flat, directory / "image")

    image = entry(cache / "kvm-floor" / built_from, fill) / "image"
    return Programs(vmm, image, built_from)
