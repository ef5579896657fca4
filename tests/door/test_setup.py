"""The launcher and the set-up, as a fresh machine meets them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from harness.host.packages import with_component

ROOT = Path(__file__).parents[2]

ONE_LINE = """
# a comment
deb http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/security bookworm-security main contrib
deb-src http://mirror.example/debian bookworm main
deb http://vendor.example/apt stable vendor
"""
DEB822 = """Types: deb
# a comment in the stanza
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/key.gpg

Types: deb-src
URIs: http://mirror.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://vendor.example/node
Suites: nodistro
Components: vendor
"""


def test_a_list_for_a_component_is_derived_and_nothing_else() -> None:
    assert with_component({"sources.list": ONE_LINE}, "non-free").splitlines() == [
        "deb http://mirror.example/debian bookworm non-free",
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/security "
        "bookworm-security non-free",
    ]
    key = "[signed-by=/usr/share/keyrings/key.gpg] "
    assert with_component({"debian.sources": DEB822}, "non-free").splitlines() == [
        f"deb {key}http://mirror.example/debian bookworm non-free",
        f"deb {key}http://mirror.example/debian bookworm-updates non-free",
    ]
    assert with_component({"notes.txt": ONE_LINE, "empty.list": ""}, "non-free") == ""


def test_set_up_again_is_done_at_once() -> None:
    if not (ROOT / ".venv" / ".setup-stamp").exists():
        pytest.skip("set-up has not run in this checkout")
    start = time.monotonic()
    subprocess.run([ROOT / "bin" / "setup"], check=True)
    assert time.monotonic() - start < 1


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a stub for mise, which says how it was called."""
    (tmp_path / "checkout/bin").mkdir(parents=True)
    shutil.copy(ROOT / "bin" / "mise", tmp_path / "checkout/bin/mise")
    (tmp_path / "path").mkdir()
    return tmp_path / "checkout"


def _program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def _launch(checkout: Path, *words: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": f"{path}{checkout.parent}/path:/usr/bin:/bin",
        "HOME": str(checkout.parent / "home"),
    }
    return subprocess.run(
        [checkout / "bin/mise", *words], env=environment, capture_output=True, text=True, cwd="/"
    )


def test_the_mise_of_the_path_is_used_from_anywhere(checkout: Path) -> None:
    _program(checkout.parent / "path/mise", 'echo "$MISE_TRUSTED_CONFIG_PATHS $*"')
    # With bin/ itself on the path the launcher must not find itself and go round for ever.
    done = _launch(checkout, "run", "x", "--", "a b", path="")
    assert done.stdout == f"{checkout} --cd {checkout} run x -- a b\n"
    assert _launch(checkout, "tasks", path=f"{checkout}/bin:").returncode in (0, 69)


def test_a_mise_that_is_not_the_pinned_one_is_refused(checkout: Path) -> None:
    """npm is a fake here: it brings something else than was asked for."""
    if os.uname().machine != "x86_64":
        pytest.skip("a digest is pinned for x86-64 only")
    _program(
        checkout.parent / "path/npm",
        'to="$3/node_modules/@jdxcode/mise-linux-x64/bin"\nmkdir -p "$to"\necho evil >"$to/mise"',
    )
    done = _launch(checkout, "tasks")
    assert done.returncode == 69 and "sha256 differs" in done.stderr
    assert not list((checkout.parent / "home").rglob("mise"))[1:]


def test_the_launcher_brings_mise_where_there_is_none(checkout: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, and this test installs nothing")
    both = [
        subprocess.Popen(
            [checkout / "bin/mise", "--version"],
            env=os.environ | {"HOME": str(checkout.parent / "home"), "XDG_CACHE_HOME": ""},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [one.communicate(timeout=120)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert all(text.startswith("20") for text in said)


def test_the_tasks_are_found() -> None:
    done = subprocess.run([ROOT / "bin/mise", "tasks"], capture_output=True, text=True)
    for name in ("bench", "test", "setup", "doctor", "site", "clean", "bench:qemu-full"):
        assert f"\n{name} " in f"\n{done.stdout}", done.stderr
