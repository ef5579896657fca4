"""The launcher bin/mise, with a fake npm that 'installs' a file: nothing is downloaded."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands.tools import ROOT, environment, only, script

pytestmark = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"),
    reason="the launcher pins a digest for Linux on x86_64 only",
)

FAKE_MISE = """
[ "$1" = --version ] && { echo 2026.1.1 fake; exit 0; }
echo "trusted=$MISE_TRUSTED_CONFIG_PATHS"
echo "cwd=$PWD"
echo "argv=$*"
"""
FAKE_NPM = """
echo "npm $*" >>"$LOG"
sleep 0.2
mkdir -p "$3/node_modules/@jdxcode/mise-linux-x64/bin"
cp "$FAKE" "$3/node_modules/@jdxcode/mise-linux-x64/bin/mise"
"""


class Launcher:
    """A copied tree with the launcher, pinned to the fake mise."""

    def __init__(self, directory: Path, digest: str | None = None) -> None:
        self.root = directory / "tree"
        (self.root / "bin").mkdir(parents=True)
        fake = script(directory / "fake-mise", FAKE_MISE)
        text = (ROOT / "bin/mise").read_text(encoding="utf-8")
        pinned = next(line for line in text.splitlines() if line.startswith("digest_linux_x64="))
        digest = digest or hashlib.sha256(fake.read_bytes()).hexdigest()
        self.path = self.root / "bin/mise"
        self.path.write_text(text.replace(pinned, f"digest_linux_x64={digest}"), encoding="utf-8")
        self.path.chmod(0o755)
        self.tools = only(directory / "tools")
        script(self.tools / "npm", FAKE_NPM)
        self.log = directory / "log"
        self.log.write_text("", encoding="utf-8")
        self.home = directory / "home"
        self.home.mkdir()
        self.environment = {
            **environment(str(self.tools), self.home), "LOG": str(self.log), "FAKE": str(fake),
        }  # fmt: skip

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.path, *arguments],
            env=self.environment,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate()
        return process.returncode, out, err

    @property
    def downloads(self) -> int:
        return self.log.read_text(encoding="utf-8").count("npm install")

    def kept(self) -> list[str]:
        """The files in the cache."""
        return sorted(path.name for path in self.home.rglob("*") if path.is_file())


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    return Launcher(tmp_path)


def test_it_downloads_mise_once_and_runs_it_for_this_checkout(launcher: Launcher) -> None:
    code, out, err = launcher.run("run", "setup", "two words")
    assert code == 0, err
    assert out == f"trusted={launcher.root}\ncwd={launcher.root}\nargv=run setup two words\n"
    assert launcher.run("run", "setup")[0] == 0
    assert launcher.downloads == 1
    assert launcher.kept() == ["mise"]


def test_a_mise_on_the_path_is_used(launcher: Launcher, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "fake-mise", launcher.tools / "mise")
    assert launcher.run("tasks")[0] == 0
    assert launcher.downloads == 0


def test_a_broken_mise_on_the_path_is_not_used(launcher: Launcher) -> None:
    script(launcher.tools / "mise", "exit 1\n")
    code, out, _ = launcher.run("tasks")
    assert (code, launcher.downloads) == (0, 1)
    assert "argv=" in out


@pytest.mark.parametrize("how", ["directory", "link"])
def test_the_launcher_on_the_path_does_not_call_itself(launcher: Launcher, how: str) -> None:
    if how == "directory":
        launcher.environment["PATH"] = f"{launcher.root / 'bin'}:{launcher.tools}"
    else:
        (launcher.tools / "mise").symlink_to(launcher.path)
    code, out, err = launcher.run("tasks")
    assert code == 0, err
    assert out.count("argv=") == 1


def test_a_mise_with_another_digest_is_refused_and_not_kept(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, digest="0" * 64)
    code, out, err = launcher.run("tasks")
    assert (code, out) == (69, "")
    assert "is not the pinned one" in err
    assert launcher.kept() == []


def test_a_failed_npm_is_a_clear_error(launcher: Launcher) -> None:
    script(launcher.tools / "npm", "exit 1\n")
    code, _, err = launcher.run("tasks")
    assert code == 69 and "bin/mise: npm could not download mise" in err
    assert launcher.kept() == []


def test_without_mise_and_npm_the_error_says_what_to_install(launcher: Launcher) -> None:
    (launcher.tools / "npm").unlink()
    code, _, err = launcher.run("tasks")
    message = (
        "bin/mise: neither mise nor npm is installed: install one of them and run this again\n"
    )
    assert (code, err) == (69, message)


def test_two_launchers_at_once_both_run(launcher: Launcher) -> None:
    both = [launcher.start("tasks"), launcher.start("tasks")]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert all("argv=" in out for out, _ in outputs)
    assert launcher.kept() == ["mise"]


def test_the_pin_names_a_version_and_a_digest() -> None:
    lines = (ROOT / "bin/mise").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("=", 1) for line in lines if line.startswith(("version=", "digest_")))
    assert pins["version"].count(".") == 2
    assert len(bytes.fromhex(pins["digest_linux_x64"])) == 32
