"""The guest image: a kernel and an initramfs with the agent as PID 1.

An image is named by the digest of its inputs: equal inputs are built once, and a changed agent
gives another image. Builds are reproducible.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import paths
from harness.errors import ImageError
from harness.guest import initramfs, kernel_choice, modules
from harness.guest.kernel import Kernel
from harness.host import package_names
from harness.host.cache import entry
from harness.host.process import install_packages, need, run
from harness.measure.record import Image, digest

AGENT = paths.AGENT
PROGRAMS = paths.GUEST_PROGRAMS
COMPILE = (
    "-static", "-Os", "-s", "-Wall", "-Wextra", "-D_GNU_SOURCE", "-ffile-prefix-map=/=",
    # Two segments instead of four: each costs a mapping and page faults whenever a program starts.
    "-Wl,-z,noseparate-code", "-Wl,-z,norelro",
)  # fmt: skip
MODULES = ("virtio_mmio", "virtio_console", "virtio_net")
PCI_MODULES = ("virtio_pci",)
"""Loaded only if the machine has a PCI bus, as bhyve's guests have."""
APPLETS = [
    "sh",
    "cat",
    "ls",
    "cp",
    "mv",
    "rm",
    "mkdir",
    "sleep",
    "true",
    "false",
    "head",
    "tail",
    "dd",
    "ps",
    "kill",
    "ip",
    "ping",
    "uname",
    "hostname",
    "date",
    "env",
    "seq",
    "sort",
    "wc",
    "grep",
    "id",
    "mount",
    "umount",
    "free",
    "df",
    "sync",
    "test",
    "touch",
    "printf",
    "yes",
]


@dataclass(frozen=True)
class Addition:
    """A program that an image contains besides the agent, and the modules that it needs.

    The files `shared` of the agent's sources are compiled into it.
    """

    program: str
    sources: Path
    shared: Sequence[str]
    modules: Sequence[str]


@dataclass(frozen=True)
class GuestImage:
    """A built image; `sha256` covers its two files, `built_from` names their inputs."""

    kernel: Path
    initramfs: Path
    sha256: str
    built_from: Mapping[str, str]

    def as_record(self) -> Image:
        return Image("guest", self.sha256, self.built_from)


def _sources(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.[ch]"))


def _inputs(kernel: Kernel, busybox: Path, addition: Addition | None) -> dict[str, str]:
    """An image's inputs, whose digest is its name."""
    sources = hashlib.sha256()
    for path in (*_sources(AGENT), *_sources(PROGRAMS), Path(__file__), Path(initramfs.__file__)):
        sources.update(path.name.encode() + b"\0" + path.read_bytes())
    return {
        "kernel": kernel.version,
        "kernel_choice": kernel_choice.label(),
        "kernel_sha256": digest(kernel.vmlinux),
        "agent_sha256": sources.hexdigest(),
        "busybox_sha256": digest(busybox),
        "compiler": run("musl-gcc", "--version").decode().splitlines()[0],
        "modules": " ".join(MODULES + PCI_MODULES) if kernel.modules else "built in",
        **(_added(addition) if addition else {}),
    }


def _added(addition: Addition) -> dict[str, str]:
    sources = hashlib.sha256()
    for path in _sources(addition.sources):
        sources.update(path.name.encode() + b"\0" + path.read_bytes())
    return {addition.program: sources.hexdigest(), "added_modules": " ".join(addition.modules)}


def _compile(sources: list[Path], target: Path, *options: str) -> bytes:
    run("musl-gcc", *COMPILE, *options, "-o", target, *sources)
    return target.read_bytes()


def _initramfs(kernel: Kernel, busybox: Path, work: Path, addition: Addition | None) -> bytes:
    directories = ["bin", "dev", "etc", "modules", "proc", "root", "run", "sys", "tmp"]
    entries = [initramfs.directory(name) for name in directories]
    agent = [path for path in _sources(AGENT) if path.suffix == ".c"]
    entries.append(initramfs.program("init", _compile(agent, work / "agent")))
    entries.append(initramfs.program("bin/busybox", busybox.read_bytes()))
    for source in sorted(PROGRAMS.glob("*.c")):
        entries.append(
            initramfs.program(f"bin/{source.stem}", _compile([source], work / source.stem))
        )
    entries += [initramfs.link(f"bin/{name}", "busybox") for name in APPLETS]
    entries.append(initramfs.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"))
    wanted: Sequence[str] = MODULES
    if addition:
        parts = [path for path in _sources(addition.sources) if path.suffix == ".c"]
        parts += [AGENT / name for name in addition.shared]
        built = _compile(parts, work / addition.program, f"-I{AGENT}")
        entries.append(initramfs.program(f"bin/{addition.program}", built))
        entries.append(initramfs.directory("mnt"))
        wanted = (*MODULES, *addition.modules)
    found = modules.wanted(kernel.modules, wanted) if kernel.modules else []
    entries += _numbered("modules", found)
    more = modules.wanted(kernel.modules, PCI_MODULES) if kernel.modules else []
    entries.append(initramfs.directory("modules/pci"))
    entries += _numbered("modules/pci", [module for module in more if module not in found])
    return initramfs.clear_of_tables(initramfs.archive(entries))


def _numbered(directory: str, found: Sequence[modules.Module]) -> list[initramfs.Entry]:
    """Files with names that sort in load order."""
    return [
        initramfs.file(f"{directory}/{number:02}-{module.name}.ko", module.content)
        for number, module in enumerate(found)
    ]


def static_busybox() -> Path:
    """The distribution's busybox. Raises ImageError if it needs libraries, which guests lack."""
    path = Path(need("busybox")).resolve()
    if b"ld-linux" in path.read_bytes()[:4096]:
        raise ImageError(
            f"{path} is not statically linked, so no guest can run it",
            hint=install_packages(package_names.package("busybox")),
        )
    return path


def build(cache: Path, addition: Addition | None = None) -> GuestImage:
    """The image for the current inputs, from the cache or built now.

    Raises MissingTool, ImageError (not a kernel, or no slim one was built) and DiskFull.
    """
    kernel, busybox = kernel_choice.chosen(cache), static_busybox()
    inputs = _inputs(kernel, busybox, addition)
    name = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    target = cache / "images" / name

    def fill(directory: Path) -> None:
        (directory / "vmlinux").symlink_to(kernel.vmlinux.resolve())
        work = directory / "work"
        work.mkdir()
        (directory / "initramfs").write_bytes(_initramfs(kernel, busybox, work, addition))
        shutil.rmtree(work)
        content = inputs["kernel_sha256"] + digest(directory / "initramfs")
        (directory / "sha256").write_text(
            hashlib.sha256(content.encode()).hexdigest(), encoding="utf-8"
        )

    entry(target, fill)
    sha256 = (target / "sha256").read_text(encoding="utf-8")
    return GuestImage(target / "vmlinux", target / "initramfs", sha256, inputs)
