"""The distribution package of each program, by release.

Set-up installs from this table and remedies name packages from it. Imports only the standard
library and none of our modules, because set-up runs before anything is installed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OS_RELEASE = Path("/etc/os-release")


@dataclass(frozen=True)
class Release:
    """A distribution's release according to /etc/os-release, such as `debian` and `13`.

    `version` is empty for Debian testing and unstable; `family` is the distribution itself and
    those that it derives from.
    """

    family: Sequence[str]
    version: str
    codename: str

    @property
    def name(self) -> str:
        return f"{self.family[0]} {self.version}".strip()


DEBIAN_12 = Release(("debian",), "12", "bookworm")
DEBIAN_13 = Release(("debian",), "13", "trixie")
UBUNTU_24 = Release(("ubuntu", "debian"), "24.04", "noble")

PACKAGES: Mapping[str, str] = {
    "apt-cache": "apt",
    "apt-config": "apt",
    "apt-get": "apt",
    "bc": "bc",
    "bison": "bison",
    "busybox": "busybox-static",
    "bwrap": "bubblewrap",
    "chromium": "chromium",
    "cp": "coreutils",
    "cpio": "cpio",
    "debootstrap": "debootstrap",
    "docker": "docker-cli",
    "dockerd": "docker.io",
    "dpkg-deb": "dpkg",
    "dpkg-query": "dpkg",
    "fallocate": "util-linux",
    "flex": "flex",
    "gcc": "gcc",
    "git": "git",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "java": "default-jre-headless",
    "ld": "binutils",
    "ldd": "libc-bin",
    "lz4": "lz4",
    "lzop": "lzop",
    "make": "make",
    "mke2fs": "e2fsprogs",
    "mkfs.ext4": "e2fsprogs",
    "modprobe": "kmod",
    "mount": "mount",
    "musl-gcc": "musl-tools",
    "netperf": "netperf",
    "netserver": "netperf",
    "nft": "nftables",
    "node": "nodejs",
    "npm": "npm",
    "openssl": "openssl",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "runc": "runc",
    "runsc": "runsc",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "strip": "binutils",
    "sync": "coreutils",
    "sysctl": "procps",
    "tar": "tar",
    "umount": "mount",
    "unshare": "util-linux",
    "xz": "xz-utils",
    "zstd": "zstd",
}
"""The package of each program that the harness starts, in the newest release known here."""

HEADERS = "libc6-dev"
"""The C library's headers and link libraries, which have no program to look for."""
ELF_HEADERS = "libelf-dev"
"""What a kernel's build needs, and no program shows."""
VENV = "python3-venv"
LIBNFTABLES = "nftables"
"""Depends on libnftables."""

OTHER_NAMES: Mapping[tuple[str, str], Mapping[str, str]] = {
    # There, a single package has the daemon and the client.
    ("debian", "12"): {"docker": "docker.io"},
    ("ubuntu", "24.04"): {"docker": "docker.io", "chromium": "chromium-browser"},
}
"""Names that differ, by distribution and release. Ubuntu's are from documentation: no test checks
them with its apt."""

KERNELS: Mapping[str, str] = {
    "debian": "linux-image-cloud-amd64",
    "ubuntu": "linux-image-virtual",
}
"""By distribution, the package that depends on its newest kernel for virtual machines."""
GENERIC_KERNELS: Mapping[str, str] = {
    "debian": "linux-image-amd64",
    "ubuntu": "linux-image-generic",
}
KERNEL_SOURCES: Mapping[str, str] = {"debian": "linux-source", "ubuntu": "linux-source"}
"""By distribution, the package that depends on the source of its newest kernel."""


def release(file: Path = OS_RELEASE) -> Release:
    """This host's release; the newest Debian if the file does not say."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    fields = {key: value.strip("\"'") for key, value in re.findall(r"^(\w+)=(.*)$", text, re.M)}
    family = (fields.get("ID", "debian"), *fields.get("ID_LIKE", "").split())
    return Release(family, fields.get("VERSION_ID", ""), fields.get("VERSION_CODENAME", ""))


def package(program: str, of: Release | None = None) -> str:
    """The package of a program in a release (default: this host's)."""
    of = of or release()
    names = OTHER_NAMES.get((of.family[0], of.version), {})
    return names.get(program) or PACKAGES.get(program, program)


def kernel(of: Release | None = None) -> str:
    """The package of the kernel for virtual machines; derivatives use their origin's."""
    return _of_family(KERNELS, of or release())


def generic_kernel(of: Release | None = None) -> str:
    """The package of the kernel for physical machines, which the traditional VM boots."""
    return _of_family(GENERIC_KERNELS, of or release())


def kernel_source(of: Release | None = None) -> str:
    """The package of the kernel's source."""
    return _of_family(KERNEL_SOURCES, of or release())


def _of_family(names: Mapping[str, str], of: Release) -> str:
    return next((names[name] for name in of.family if name in names), names["debian"])
