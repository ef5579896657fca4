"""Installs what is missing from the distribution; run by bin/setup before anything else is there.

Only the standard library, and no import of ours. The machine's own source lists are never edited:
for a package in a component that they leave out, a temporary list derived from them serves.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# A program or file that shows the package is there, and the package.
NEEDED = {
    "qemu-system-x86_64": "qemu-system-x86",
    "nft": "nftables",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "runc": "runc",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "lz4": "lz4",
    "gcc": "gcc",
    "musl-gcc": "musl-tools",
    "git": "git",
    "chromium": "chromium",
}
FROM_COMPONENT = {"netperf": ("netperf", "non-free")}
LISTS = Path("/etc/apt")


def missing() -> list[str]:
    """Debian packages that are not here."""
    packages = [package for program, package in NEEDED.items() if shutil.which(program) is None]
    busybox = shutil.which("busybox")
    if busybox and b"ld-linux" in Path(busybox).resolve().read_bytes()[:4096]:
        packages.append("busybox-static")
    if not _ensurepip():
        packages.append("python3-venv")
    return packages


def _ensurepip() -> bool:
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        return False
    return True


def with_component(texts: dict[str, str], component: str) -> str:
    """One-line sources that offer `component`, from the files of a sources folder by name.

    Only sources that have `main` are taken: others do not follow Debian's layout.
    """
    lines = []
    for name, text in sorted(texts.items()):
        if name.endswith(".list"):
            for line in text.splitlines():
                found = re.match(r"deb\s+(\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.+)", line.strip())
                if found and "main" in found[4].split():
                    options = found[1] or ""
                    lines.append(f"deb {options}{found[2]} {found[3]} {component}")
        elif name.endswith(".sources"):
            for stanza in re.split(r"\n\s*\n", text):
                bare = "\n".join(l for l in stanza.splitlines() if not l.startswith("#"))  # noqa: E741
                fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", bare, re.MULTILINE))
                if fields.get("Enabled", "yes").strip().lower() in ("no", "false", "0"):
                    continue
                if "deb" not in fields.get("Types", "").split():
                    continue
                if "main" not in fields.get("Components", "").split():
                    continue
                signed = fields.get("Signed-By", "")
                options = f"[signed-by={signed}] " if signed.startswith("/") else ""
                for uri in fields["URIs"].split():
                    for suite in fields["Suites"].split():
                        lines.append(f"deb {options}{uri} {suite} {component}")
    return "\n".join(lines) + "\n" if lines else ""


def _apt(*arguments: str) -> int:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.call(["apt-get", "-qq", *arguments], env=environment, stdout=sys.stderr)


def _install(packages: list[str], *options: str) -> bool:
    return _apt(*options, "install", "-y", "--no-install-recommends", *packages) == 0


def _install_from_component(package: str, component: str) -> bool:
    texts = {
        path.name: path.read_text(errors="replace")
        for path in (LISTS / "sources.list", *(LISTS / "sources.list.d").glob("*"))
        if path.is_file()
    }
    with tempfile.TemporaryDirectory(prefix="coppice-apt-") as folder:
        derived = Path(folder) / "derived.list"
        derived.write_text(with_component(texts, component))
        lists = Path(folder) / "lists" / "partial"
        lists.mkdir(parents=True)
        Path(folder).chmod(0o755)
        options = (
            "-o", f"Dir::Etc::SourceList={derived}",
            "-o", "Dir::Etc::SourceParts=-",
            "-o", f"Dir::State::Lists={lists.parent}",
            "-o", "APT::Sandbox::User=root",
        )  # fmt: skip
        return _apt(*options, "update") == 0 and _install([package], *options)


def main() -> int:
    """Install what is missing, or say what to install; 0 either way, rigs skip what is not here."""
    packages = missing()
    special = {p: where for p, where in FROM_COMPONENT.items() if shutil.which(p) is None}
    # The guest's kernel package is fetched later with apt-get, which needs lists to look it up in.
    listed = any(Path("/var/lib/apt/lists").glob("*_Packages*"))
    if not packages and not special and listed:
        return 0
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        names = [*packages, *(package for package, _ in special.values())]
        why = "not root" if shutil.which("apt-get") else "not Debian or Ubuntu"
        print(f"setup: {why}, so install these yourself: {' '.join(names)}", file=sys.stderr)
        return 0
    print(f"setup: installing {' '.join([*packages, *special])}", file=sys.stderr)
    # A broken third-party list makes the update fail, and the packages may be there all the same.
    _apt("update")
    if packages and not _install(packages):
        for package in packages:
            if not _install([package]):
                print(
                    f"setup: {package} could not be installed; what needs it is skipped",
                    file=sys.stderr,
                )
    for package, component in special.values():
        if not _install_from_component(package, component):
            print(
                f"setup: {package} ({component}) could not be installed; what needs it is skipped",
                file=sys.stderr,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
