"""Set-up's packages: derived apt sources, and what is missing. Nothing is installed here."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.host import package_names
from harness.setup import packages

MORE = "main contrib non-free"

ONE_LINE = """\
# deb http://archive.example/debian bookworm main
deb http://archive.example/debian bookworm main  # the archive
deb-src http://archive.example/debian bookworm main
deb [arch=amd64 signed-by=/keys/one.gpg] http://archive.example/security bookworm-security main
deb https://vendor.example/apt cloud-bookworm main
deb https://vendor.example/docker bookworm stable
deb http://flat.example/repo ./
cdrom: nonsense
"""
DEB822 = """\
Types: deb deb-src
# a remark in between
URIs: mirror+file:/mirrors/debian.list
Suites: bookworm bookworm-updates nodistro
Components: main
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEZQ
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
"""


def test_one_line_lists_keep_address_suite_and_options() -> None:
    assert packages.derive({"sources.list": ONE_LINE}, "bookworm", MORE) == {
        "sources.list": (
            f"deb http://archive.example/debian bookworm {MORE}\n\n"
            "deb [arch=amd64 signed-by=/keys/one.gpg] "
            f"http://archive.example/security bookworm-security {MORE}\n"
        )
    }


def test_deb822_lists_keep_keys_and_lose_third_party_suites() -> None:
    [(name, text)] = packages.derive({"debian.sources": DEB822}, "bookworm", MORE).items()
    assert name == "debian.sources"
    assert text.splitlines() == [
        "types: deb",
        "uris: mirror+file:/mirrors/debian.list",
        "suites: bookworm bookworm-updates",
        f"components: {MORE}",
        "signed-by:",
        " -----BEGIN PGP PUBLIC KEY BLOCK-----",
        " .",
        " mDMEZQ",
        " -----END PGP PUBLIC KEY BLOCK-----",
    ]


def test_files_that_apt_does_not_read_are_not_read() -> None:
    texts = {"old.list.disabled": ONE_LINE, "debian.sources.save": DEB822, "empty.list": "\n"}
    assert packages.derive(texts, "bookworm", MORE) == {}


PACKAGE = """\
Package: {name}
Version: 1
Architecture: all
Maintainer: nobody <nobody@localhost>
Filename: pool/{name}.deb
Size: 1
SHA256: {digest}
Description: made by a test
"""


@pytest.mark.skipif(not Path("/etc/debian_version").exists(), reason="needs apt")
def test_apt_finds_in_derived_lists_what_the_machines_own_omit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codename = package_names.release().codename
    suite = tmp_path / "archive" / "dists" / codename
    sums = []
    for component in packages.COMPONENTS["debian"].split():
        index = suite / component / "binary-all" / "Packages"
        index.parent.mkdir(parents=True)
        index.write_text(
            PACKAGE.format(name=f"test-{component}", digest="0" * 64), encoding="utf-8"
        )
        digest = hashlib.sha256(index.read_bytes()).hexdigest()
        sums.append(f" {digest} {index.stat().st_size} {index.relative_to(suite)}\n")
    (suite / "Release").write_text(
        f"Codename: {codename}\nDate: Mon, 23 Nov 2026 00:00:00 UTC\nArchitectures: all\n"
        f"Components: {packages.COMPONENTS['debian']}\nSHA256:\n{''.join(sums)}",
        encoding="utf-8",
    )
    etc = tmp_path / "etc"
    etc.mkdir()
    own = f"deb [trusted=yes arch=all] file:{tmp_path / 'archive'} {codename} main\n"
    (etc / "sources.list").write_text(own, encoding="utf-8")
    monkeypatch.setattr(packages, "APT", etc)
    monkeypatch.setattr(packages, "COMPONENTS", {"debian": MORE, "ubuntu": MORE})
    names = ["test-main", "test-non-free", "test-absent"]
    assert packages.offered(names) == []
    with packages.all_components() as options:
        directory = Path(options[3].partition("=")[2]).parent
        # The archive is in a directory that only root can read.
        assert packages.apt(*options, "-o", "APT::Sandbox::User=root", "update") == 0
        assert packages.offered(names, *options) == ["test-main", "test-non-free"]
    assert not directory.exists()
    assert (etc / "sources.list").read_text(encoding="utf-8") == own


@pytest.mark.skipif(shutil.which("apt-cache") is None, reason="needs apt-cache")
def test_offered_and_unknown_packages_are_distinguished() -> None:
    assert packages.offered(["dpkg", "no-such-package-as-this"]) == ["dpkg"]


def test_the_packages_of_missing_programs_are_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for program in packages.NEEDED:
        (tmp_path / program).write_text("#!/bin/sh\n", encoding="utf-8")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert packages.missing() == []
    assert packages.missing(tests=True) == [
        package_names.package(program) for program in packages.FOR_TESTS
    ]
    (tmp_path / "qemu-system-x86_64").unlink()
    (tmp_path / "busybox").write_bytes(b"\x7fELF /lib64/ld-linux-x86-64.so.2")
    assert packages.missing() == ["qemu-system-x86", "busybox-static"]
    monkeypatch.setattr(packages, "HEADERS", tmp_path / "stdio.h")
    assert packages.missing()[-1] == "libc6-dev"


@pytest.mark.parametrize(
    ("apt", "root", "message"),
    [
        ("apt-get", False, "setup: not root, .* sudo apt-get install lz4 netperf\n"),
        (None, True, "setup: not Debian or Ubuntu; .*: lz4 netperf\n"),
    ],
)
def test_if_it_cannot_install_it_lists_the_packages(
    apt: str | None,
    root: bool,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: apt)
    left = packages.install(look=lambda tests: ["lz4", "netperf"], root=root)
    assert left == ["lz4", "netperf"]
    assert re.fullmatch(message, capsys.readouterr().err)


def test_installing_starts_no_service_and_keeps_the_machines_policy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(packages, "POLICY", policy)
    with packages._no_service_started():
        assert subprocess.run([policy, "docker", "start"]).returncode == 101
    assert not policy.exists()
    policy.write_text("own", encoding="utf-8")
    with packages._no_service_started():
        assert policy.read_text(encoding="utf-8") == "own"
    assert policy.read_text(encoding="utf-8") == "own"
