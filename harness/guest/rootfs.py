"""Root file systems: busybox, the smallest, and Debian with Python, made by debootstrap.

A root is a directory in the cache, named by the digest of its recipe and built once. It is never
written to afterwards: a sandbox gets a copy or an overlay. Its sha256 covers all content except
timestamps. It has no devices, no machine id and no name of this host.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CoppiceError, ImageError, MissingPrivilege, MissingTool
from harness.guest.image import APPLETS, COMPILE, PROGRAMS, static_busybox
from harness.host.cache import entry
from harness.host.process import need, run
from harness.measure.record import Image, digest

DIRECTORIES = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var")
PASSWD = "root:x:0:0:root:/root:/bin/sh\n"
USUAL = ("bash-static", "python3", "python3-ipython")
"""Debian packages besides the essential ones; bash-static is the gateway's shell."""
EDITION = 1
"""The version of the recipe below; increased when the recipe changes, so that roots are rebuilt."""
# What a sandbox does not need, or what depends on this host or the time.
NOT_KEPT = (
    "dev/*", "etc/hostname", "etc/machine-id", "etc/resolv.conf", "run/*", "tmp/*",
    "usr/share/doc/*", "usr/share/info/*", "usr/share/locale/*", "usr/share/man/*",
    "var/cache/apt/*", "var/cache/debconf/*", "var/cache/ldconfig/*", "var/lib/apt/lists/*",
    "var/lib/dpkg/*-old", "var/log/*",
)  # fmt: skip


@dataclass(frozen=True)
class RootFs:
    """A root file system; `sha256` is of its content, `built_from` names its inputs."""

    name: str
    path: Path
    sha256: str
    built_from: Mapping[str, str]

    def as_record(self) -> Image:
        return Image(f"root-{self.name}", self.sha256, self.built_from)


def busybox(cache: Path) -> RootFs:
    """The smallest root: busybox with its applets, and a minimal echo.

    Raises MissingTool, ImageError (a busybox that needs libraries) and DiskFull.
    """
    program = static_busybox()
    echo = PROGRAMS / "echo.c"
    inputs = {
        "busybox_sha256": digest(program),
        "echo_sha256": digest(echo),
        "applets_sha256": hashlib.sha256(" ".join(APPLETS).encode()).hexdigest(),
    }
    target = _place(cache, "busybox", inputs)

    def fill(directory: Path) -> None:
        root = _new_root(directory)
        (root / "bin").mkdir()
        shutil.copyfile(program, root / "bin/busybox")
        (root / "bin/busybox").chmod(0o755)
        run("musl-gcc", *COMPILE, "-o", root / "bin/echo", echo)
        for applet in APPLETS:
            (root / "bin" / applet).symlink_to("busybox")
        (root / "etc/passwd").write_text(PASSWD, encoding="utf-8")
        _note(directory, inputs)

    return _found("busybox", entry(target, fill))


def debian(cache: Path, packages: Sequence[str] = USUAL) -> RootFs:
    """This distribution's essential packages and `packages`; takes a minute or two the first time.

    The packages come from the mirror of this machine's apt, and are not updated later. Raises
    MissingPrivilege, MissingTool, CoppiceError (no mirror, or debootstrap failed) and DiskFull.
    """
    site, suite = mirror()
    wanted = ",".join(sorted(set(packages)))
    inputs = {"suite": suite, "packages": wanted, "edition": str(EDITION)}
    target = _place(cache, "debian", inputs)

    def fill(directory: Path) -> None:
        if os.geteuid() != 0:
            raise MissingPrivilege(
                "building a Debian root file system needs root", hint="run it again as root"
            )
        need("debootstrap")
        # Its mounts disappear with its mount namespace, however it ends.
        run(
            "unshare", "--mount", "--propagation", "private", "env", *_environment(),
            "debootstrap", "--variant=minbase", f"--include={wanted}", suite,
            directory / "root", site,
        )  # fmt: skip
        versions = _versions(directory / "root")
        _strip(directory / "root")
        _note(directory, inputs | {"versions_sha256": hashlib.sha256(versions).hexdigest()})
        (directory / "versions").write_bytes(versions)

    return _found("debian", entry(target, fill))


def from_path(path: Path) -> RootFs:
    """A root directory given by the user. ImageError when it is unsuitable."""
    if path.is_symlink():
        raise ImageError(
            f"the root file system {path} is a link to {path.resolve()}",
            hint="name the directory itself, so that it is clear what a sandbox may change",
        )
    if not path.is_dir():
        raise ImageError(f"there is no root file system at {path}")
    if path.samefile("/"):
        raise ImageError(f"{path} is this host's own root file system")
    if not (path / "bin/echo").is_file():
        raise ImageError(f"{path} has no /bin/echo, which every sandbox runs as its first process")
    return RootFs(path.name, path.resolve(), tree_digest(path), {"path": path.name})


def tree_digest(root: Path) -> str:
    """The SHA-256 of the names, types, modes, owners and contents of all files in a directory."""
    whole = hashlib.sha256()
    for path in _walk(root):
        found = path.lstat()
        whole.update(os.fsencode(path.relative_to(root)) + b"\0")
        whole.update(f"{found.st_mode:o} {found.st_uid} {found.st_gid}\0".encode())
        if stat.S_ISLNK(found.st_mode):
            whole.update(os.fsencode(path.readlink()))
        elif stat.S_ISREG(found.st_mode):
            whole.update(bytes.fromhex(digest(path)))
    return whole.hexdigest()


def _walk(root: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(root):
        names.sort()
        for name in sorted([*files, *names]):
            yield Path(directory, name)


def _place(cache: Path, name: str, inputs: Mapping[str, str]) -> Path:
    recipe = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return cache / "roots" / f"{name}-{recipe}"


def _new_root(directory: Path) -> Path:
    root = directory / "root"
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    return root


def _note(directory: Path, inputs: Mapping[str, str]) -> None:
    (directory / "built_from.json").write_text(json.dumps(inputs), encoding="utf-8")
    (directory / "sha256").write_text(tree_digest(directory / "root"), encoding="utf-8")


def _found(name: str, target: Path) -> RootFs:
    built_from = json.loads((target / "built_from.json").read_text(encoding="utf-8"))
    return RootFs(
        name, target / "root", (target / "sha256").read_text(encoding="utf-8"), built_from
    )


def mirror() -> tuple[str, str]:
    """The mirror and suite from which apt gets this distribution's main packages."""
    if shutil.which("apt-get") is None:
        raise MissingTool("apt-get is not installed, so no Debian mirror is known")
    codename = re.search(
        r"^VERSION_CODENAME=(\S+)", Path("/etc/os-release").read_text(encoding="utf-8"), re.M
    )
    listed = run(
        "apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    ).decode()  # fmt: skip
    for line in listed.splitlines():
        site, release, component = line.split()
        if codename and release == codename[1].strip('"') and component == "main":
            return site, release
    raise CoppiceError(
        "apt knows no mirror of this distribution's main packages",
        hint="add a mirror to the machine's sources, then: apt-get update",
    )


def _environment() -> list[str]:
    """Environment variables for debootstrap: apt's proxy, and no fsync for every file."""
    output = run("apt-config", "shell", "PROXY", "Acquire::http::Proxy").decode()
    proxy = re.match(r"PROXY='([^']+)'", output)
    return ["DPKG_FORCE=unsafe-io", *([f"http_proxy={proxy[1]}"] if proxy else [])]


def _versions(root: Path) -> bytes:
    """The packages installed in a root, as lines of `package version`."""
    shown = "${Package} ${Version}\\n"
    return run("dpkg-query", f"--admindir={root / 'var/lib/dpkg'}", "-W", "-f", shown)


def _strip(root: Path) -> None:
    for pattern in NOT_KEPT:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    (root / "etc/machine-id").touch()
