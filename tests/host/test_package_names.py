"""Every package that set-up installs or a remedy names is one that this release has."""

from __future__ import annotations

import ast
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import paths
from harness.host import package_names
from harness.host.package_names import DEBIAN_12, DEBIAN_13, UBUNTU_24
from harness.host.process import install_command
from harness.sandbox.reference import vm
from harness.setup import packages

SOURCES = [
    path for top in (paths.PACKAGE, paths.RIGS) for path in sorted(top.rglob("*.py"))
    if "compat" not in path.parts and "freebsd" not in path.name and "bhyve" not in path.parts
    and "jail" not in path.parts
]  # fmt: skip
STARTERS = ("need", "run", "run_program", "install_command")
NOT_OURS = {"sh", "unpack", "env", "cpuset"}
"""Called by these functions and no program of Linux: a shell's, and FreeBSD's."""


def named_programs() -> dict[str, str]:
    """Programs that the code starts or asks for by a literal name, and where."""
    found: dict[str, str] = {}
    for path in SOURCES:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match call:
                case ast.Call(ast.Name(function), [ast.Constant(str(name)), *_]) if (
                    function in STARTERS and re.fullmatch(r"[a-z][\w.-]+", name)
                ):
                    found[name] = f"{path.name}:{call.lineno}"
    return found


def test_every_program_that_the_code_names_has_a_package() -> None:
    found = named_programs()
    assert {"debootstrap", "mke2fs", "musl-gcc"} <= found.keys()
    known = package_names.PACKAGES.keys() | NOT_OURS
    assert not {name: where for name, where in found.items() if name not in known}
    assert {*packages.NEEDED, *packages.FOR_TESTS} <= package_names.PACKAGES.keys()


def test_no_remedy_names_a_package_by_hand() -> None:
    """A name that stands in a message is the same on every release, which few are."""
    by_hand = [
        f"{path.name}: {line.strip()}"
        for path in SOURCES
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"apt-get install [a-z]", line)
    ]
    assert by_hand == []


def every_package() -> list[str]:
    programs = map(package_names.package, package_names.PACKAGES)
    return sorted({
        *programs, *vm.PACKAGES, package_names.HEADERS, package_names.VENV,
        package_names.LIBNFTABLES, package_names.kernel(), package_names.generic_kernel(),
    })  # fmt: skip


@pytest.mark.skipif(platform.machine() != "x86_64", reason="packages for amd64 are named")
def test_apt_has_every_package_of_this_release() -> None:
    if shutil.which("apt-cache") is None:
        pytest.skip("apt-cache itself is asked, and it is not here")
    if not any(packages.LISTS.glob("*_Packages*")):
        pytest.skip("apt's lists are empty: apt-get update")
    absent = set(every_package()) - set(packages.offered(every_package()))
    if absent:
        with packages.all_components() as options:  # of components that this machine leaves out
            packages.apt(*options, "update")
            absent -= set(packages.offered(sorted(absent), *options))
    assert not absent, f"not in apt's lists of {package_names.release().name}"


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="dpkg itself is asked")
@pytest.mark.parametrize("program", sorted(package_names.PACKAGES))
def test_the_package_is_the_one_that_brings_the_program(program: str) -> None:
    package = package_names.package(program)
    listed = subprocess.run(
        ["dpkg", "-L", package], capture_output=True, text=True, encoding="utf-8"
    )
    if listed.returncode:
        pytest.skip(f"{package} is not installed")
    if package == "default-jre-headless":
        pytest.skip("it depends on the package of the newest Java, which has the program")
    files = {Path(line).name for line in listed.stdout.splitlines()}
    assert program in files


def test_names_differ_by_release() -> None:
    by = {of.name: package_names.package("docker", of) for of in (DEBIAN_12, DEBIAN_13, UBUNTU_24)}
    assert by == {"debian 12": "docker.io", "debian 13": "docker-cli", "ubuntu 24.04": "docker.io"}
    assert package_names.package("mke2fs", DEBIAN_13) == "e2fsprogs"
    assert package_names.kernel(UBUNTU_24) == "linux-image-virtual"
    assert install_command("mke2fs") == "apt-get install e2fsprogs   (or: bin/mise run setup)"


def test_a_release_is_read_as_it_states_itself(tmp_path: Path) -> None:
    file = tmp_path / "os-release"
    file.write_text('ID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n', encoding="utf-8")
    assert package_names.release(file) == DEBIAN_13
    file.write_text(
        'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\n', encoding="utf-8"
    )
    assert package_names.release(file) == UBUNTU_24
    file.write_text("ID=debian\nVERSION_CODENAME=forky\n", encoding="utf-8")
    forky = package_names.release(file)
    assert (forky.name, package_names.package("docker", forky)) == ("debian", "docker-cli")
    assert package_names.release(tmp_path / "absent").family == ("debian",)
