"""A minimal root file system of a Debian release, with this checkout and with this machine's
settings for package registries."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.guest import rootfs
from harness.host import package_names
from harness.host.process import need

CHECKOUT = Path(__file__).resolve().parents[2]
INSIDE = Path("root/coppice")
"""The checkout's directory in a root."""
RELEASES = ("bookworm", "trixie", "forky")
SCRIPTS = Path("/usr/share/debootstrap/scripts")
"""debootstrap's script for each release; for releases newer than debootstrap, sid's is used."""
CARRIED = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt",
    "/usr/local/share/ca-certificates", "/etc/pip.conf", "/etc/xdg/pip", "/etc/npmrc",
    "/usr/etc/npmrc",
)  # fmt: skip
"""Configuration of registries and certificates, copied if it exists."""
OF_THE_USER = (".config/pip", ".pip", ".npmrc")
VARIABLES = re.compile(
    r"(?i)(PIP_|NPM_CONFIG_|SSL_CERT_|GIT_SSL_)\w+|\w+_proxy|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
    r"|NODE_EXTRA_CA_CERTS"
)
ACQUIRE = re.compile(r"Acquire::(http|https|Check-|Retries)")


def make(release: str, root: Path) -> None:
    """Fill an empty directory. Raises CalledProcessError and MissingTool."""
    shown = package_names.release()
    mirror = [rootfs.mirror()[0]] if shown.family[0] == "debian" else []
    script = [SCRIPTS / "sid"] if mirror and not (SCRIPTS / release).exists() else []
    subprocess.run(
        [need("debootstrap"), "--variant=minbase", release, root, *mirror, *script],
        check=True, stdout=subprocess.DEVNULL, env={**os.environ, "DPKG_FORCE": "unsafe-io"},
    )  # fmt: skip
    if mirror:
        lists = _lists(shown.codename, release)
        (root / "etc/apt/sources.list").write_text(
            "".join(f"{line}\n" for line in lists), encoding="utf-8"
        )
    # The root is temporary, so it need not survive a power failure.
    (root / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n", encoding="utf-8")
    (root / "etc/apt/apt.conf.d/99carried").write_text(_acquire(), encoding="utf-8")
    _carry([*map(Path, CARRIED), *(Path.home() / name for name in OF_THE_USER)], root)
    _checkout(root / INSIDE)


def _lists(codename: str, release: str) -> Sequence[str]:
    """This machine's apt sources, rewritten for another release."""
    output = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)",
         "Created-By: Packages"],
        check=True, capture_output=True, text=True, encoding="utf-8",
    ).stdout  # fmt: skip
    return other_lists(output.splitlines(), codename, release)


def other_lists(targets: Iterable[str], codename: str, release: str) -> Sequence[str]:
    """The same sites and suites (-updates, -security) for another release; main only."""
    found = []
    for line in targets:
        site, suite, component = line.split()
        if component == "main" and re.split("[-/]", suite)[0] == codename:
            found.append(f"deb {site} {suite.replace(codename, release, 1)} main")
    return found


def _acquire() -> str:
    """This machine's apt options for downloads: proxies, certificates, checks."""
    output = subprocess.run(
        ["apt-config", "dump"], check=True, capture_output=True, text=True, encoding="utf-8"
    ).stdout
    return "".join(f"{line}\n" for line in output.splitlines() if ACQUIRE.match(line))


def _carry(paths: Iterable[Path], root: Path) -> None:
    for path in paths:
        home = path.is_relative_to(Path.home())
        target = root / ("root" / path.relative_to(Path.home()) if home else path.relative_to("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        elif path.exists():
            shutil.copyfile(path, target)


def _checkout(target: Path) -> None:
    """A clone with the uncommitted changes of this checkout."""
    subprocess.run([need("git"), "clone", "--quiet", CHECKOUT, target], check=True)
    git = ["git", "-C", str(CHECKOUT)]
    changed = subprocess.run(
        [*git, "diff", "--binary", "HEAD"], check=True, capture_output=True
    ).stdout
    if changed:
        subprocess.run(["git", "-C", target, "apply"], input=changed, check=True)
    listed = subprocess.run(
        [*git, "ls-files", "-z", "--others", "--exclude-standard"], check=True, capture_output=True
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, target / name)


def variables(of: Mapping[str, str]) -> dict[str, str]:
    """The environment of root on a new machine, with the variables that concern registries."""
    carried = {name: value for name, value in of.items() if VARIABLES.fullmatch(name)}
    return {
        **carried,
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TERM": of.get("TERM", "dumb"),
    }


def directories() -> Sequence[str]:
    """Directories of this machine in which its pip is configured to find packages."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    return pips_directories(done.stdout)


def pips_directories(listed: str) -> Sequence[str]:
    """The directories in `pip config list`; of an index its parent, which has the files."""
    found = set()
    for name, value in re.findall(r"^\S*\.([\w-]+)='(.*)'$", listed, re.M):
        for word in json.loads(f'"{value}"').split():
            path = Path(word.removeprefix("file://"))
            if path.is_absolute() and name in ("find-links", "index-url", "extra-index-url"):
                found.add(path if name == "find-links" else path.parent)
    return sorted(str(path) for path in found if path.is_dir())
