"""Installs missing packages of the distribution; runs before any Python package is installed.

Imports only the standard library, and our modules that need no more. The machine's apt sources
are never edited: for packages in components that they omit, temporary sources are derived.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from harness.host import package_names
from harness.host.scratch import temporary_directory

NEEDED = (
    "qemu-system-x86_64", "nft", "ip", "iperf3", "netperf", "runc", "busybox", "cpio", "lz4",
    "zstd", "gcc", "musl-gcc", "git", "qemu-img", "mke2fs", "debootstrap", "bwrap", "runsc",
    "dockerd", "docker", "openssl",
)  # fmt: skip
"""Programs that rigs and the gateway need."""
FOR_TESTS = ("chromium", "java", "ssh", "sshd")
"""Programs that only the tests need."""
SERVICES = {
    "docker.io": ("docker.service", "docker.socket", "containerd.service"),
    "openssh-server": ("ssh.service", "ssh.socket"),
}
"""Services that packages start: disabled, because a host that measures must be idle."""
COMPONENTS = {"debian": "main contrib non-free", "ubuntu": "main universe multiverse"}
"""The components with these packages; the machine's sources may name fewer."""
APT = Path("/etc/apt")
POLICY = Path("/usr/sbin/policy-rc.d")
"""Called by Debian's packages before they start a service; exit code 101 forbids it."""
LISTS = Path("/var/lib/apt/lists")
HEADERS = Path("/usr/include/stdio.h")
THE_LISTS = "the package lists"
"""Placeholder among missing packages: the guest's kernel is looked up in the package lists."""


def missing(tests: bool = False) -> list[str]:
    """The Debian packages that are not installed."""
    wanted = (*NEEDED, *FOR_TESTS) if tests else NEEDED
    absent = [program for program in wanted if shutil.which(program) is None]
    packages = list(dict.fromkeys(map(package_names.package, absent)))  # some have two programs
    busybox = shutil.which("busybox")
    if busybox and b"ld-linux" in Path(busybox).resolve().read_bytes()[:4096]:
        packages.append(package_names.package("busybox"))  # the installed one is not static
    if not HEADERS.exists():
        packages.append(package_names.HEADERS)  # gcc itself does not need them
    importlib.invalidate_caches()
    if sys.base_prefix == "/usr" and importlib.util.find_spec("ensurepip") is None:
        packages.append(package_names.VENV)
    if shutil.which("apt-get") and not any(LISTS.glob("*_Packages*")):
        packages.append(THE_LISTS)
    return packages


def derive(texts: Mapping[str, str], codename: str, components: str) -> dict[str, str]:
    """Apt sources with `components`, by file name, derived from the machine's own.

    Keeps addresses, suites, keys and options; drops everything but the distribution's own suites,
    so that broken third-party sources do no harm.
    """
    derived = {}
    for name, text in texts.items():
        if name.endswith(".list"):
            lines = (_one_line(line, codename, components) for line in text.splitlines())
            entries = [line for line in lines if line]
        elif name.endswith(".sources"):
            stanzas = re.split(r"\n\s*\n", text)
            derived_stanzas = (_stanza(text, codename, components) for text in stanzas)
            entries = [stanza for stanza in derived_stanzas if stanza]
        else:
            continue  # apt ignores other names, too
        if entries:
            derived[name] = "\n".join(entries)
    return derived


def _is_distributions(suite: str, codename: str) -> bool:
    aliases = (codename, "stable", "oldstable", "testing", "unstable", "sid")
    return not suite.endswith("/") and re.split(r"[-/]", suite)[0] in aliases


def _one_line(line: str, codename: str, components: str) -> str:
    found = re.match(r"\s*deb\s+(\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line)
    if not found or not _is_distributions(found[3], codename) or "main" not in found[4].split():
        return ""
    return f"deb {found[1] or ''}{found[2]} {found[3]} {components}\n"


def _stanza(text: str, codename: str, components: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    fields: dict[str, str] = {}
    key = ""
    for line in lines:
        if line[0] not in " \t" and ":" in line:
            key, _, value = line.partition(":")
            fields[key := key.lower()] = value
        elif key:
            fields[key] += f"\n{line}"  # a continuation; keys may be inline
    suites = [
        suite for suite in fields.get("suites", "").split() if _is_distributions(suite, codename)
    ]
    if (
        not suites
        or "deb" not in fields.get("types", "").split()
        or "main" not in fields.get("components", "").split()
        or fields.get("enabled", "yes").strip().lower() in ("no", "false", "0", "off")
    ):
        return ""
    fields |= {"types": " deb", "suites": " " + " ".join(suites), "components": f" {components}"}
    return "".join(f"{key}:{value}\n" for key, value in fields.items())


def _sources() -> dict[str, str]:
    files = (APT / "sources.list", *sorted((APT / "sources.list.d").glob("*")))
    return {
        path.name: path.read_text(errors="replace", encoding="utf-8")
        for path in files
        if path.is_file()
    }


def quietly(command: Sequence[str], directory: Path, lock: int) -> int:
    """Run a command that also holds the lock; its exit code. Its output is shown if it fails."""
    done = subprocess.run(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        pass_fds=(lock,),
        encoding="utf-8",
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr, end="")
    return done.returncode


def apt(*arguments: str) -> int:
    """Run apt-get non-interactively; its exit code."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    command = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=600", *arguments]
    # Its progress is long; errors are on stderr.
    quiet = subprocess.DEVNULL
    return subprocess.call(command, env=environment, stdin=quiet, stdout=quiet)


def offered(packages: Sequence[str], *options: str) -> list[str]:
    """The packages that the machine's apt sources offer, or those selected by apt's options."""
    output = subprocess.run(
        ["apt-cache", *options, "policy", *packages],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    ).stdout
    found = re.findall(r"^(\S+):\n(?:  .*\n)*?  Candidate: (?!\(none\))", output, re.M)
    return [package for package in packages if package in found]


def _install(packages: Sequence[str], *options: str) -> None:
    """Install all at once; if that fails, each by itself, so that others are not affected."""
    how = (*options, "install", "-y", "--no-install-recommends")
    with _no_service_started():
        if packages and apt(*how, *packages) and len(packages) > 1:
            for package in packages:
                apt(*how, package)
    units = [unit for package in packages for unit in SERVICES.get(package, ())]
    if units and shutil.which("systemctl"):
        # We installed them, so the user has not enabled them.
        subprocess.call(["systemctl", "--quiet", "disable", *units], stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def _no_service_started() -> Iterator[None]:
    """Keep packages from starting services while they are installed; respect an existing policy."""
    if POLICY.exists() or not os.access(POLICY.parent, os.W_OK):
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    try:
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink()


@contextlib.contextmanager
def all_components() -> Iterator[Sequence[str]]:
    """Apt options that select temporary sources with all components; removed afterwards."""
    release = package_names.release()
    components = next((COMPONENTS[name] for name in release.family if name in COMPONENTS), "")
    lists = derive(_sources(), release.codename, components)
    with temporary_directory(0o755) as directory:  # apt downloads as another user
        (directory / "parts").mkdir()
        (directory / "lists" / "partial").mkdir(parents=True)
        for file, text in lists.items():
            (directory / "parts" / file).write_text(text, encoding="utf-8")
        yield (
            "-o", "Dir::Etc::SourceList=/dev/null",
            "-o", f"Dir::Etc::SourceParts={directory / 'parts'}",
            "-o", f"Dir::State::Lists={directory / 'lists'}",
            "-o", f"Dir::Cache::pkgcache={directory / 'packages.bin'}",
            "-o", f"Dir::Cache::srcpkgcache={directory / 'sources.bin'}",
        )  # fmt: skip


def _say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def install(
    tests: bool = False, look: Callable[[bool], Sequence[str]] = missing, root: bool | None = None
) -> list[str]:
    """Install what is missing, or list what to install; returns what is still missing.

    Never fails: features that need unavailable packages are skipped, and the doctor reports them.
    """
    packages = [package for package in look(tests) if package != THE_LISTS]
    if shutil.which("apt-get") is None or not (os.geteuid() == 0 if root is None else root):
        names = " ".join(packages)
        if packages and shutil.which("apt-get"):
            _say(f"not root, so some benchmarks are skipped; to fix: sudo apt-get install {names}")
        elif packages:
            _say(f"not Debian or Ubuntu; install the equivalents of these packages: {names}")
        return list(look(tests))
    _say(f"installing {' '.join(packages) or THE_LISTS} (may take some minutes)")
    # A broken third-party source makes the update fail, but the packages may be available.
    apt("update")
    available = offered(packages) if packages else []
    _install(available)
    others = [package for package in packages if package not in available]
    if others:
        with all_components() as options:
            apt(*options, "update")
            _install(others, *options)
    left = list(look(tests))
    for package in left:
        _say(f"{package} is not available; what needs it is skipped (bin/mise run doctor)")
    return left
