"""bin/setup and the packages that it installs."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from harness.host.packages import with_component
from tests.door.tools import ROOT, environment, only, script


def test_a_one_line_source_keeps_its_options_and_gives_only_the_component() -> None:
    text = """
# deb http://commented.example/debian bookworm main
deb http://plain.example/debian bookworm main contrib
deb-src http://source.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/key.gpg] http://opts.example/debian bookworm-updates main
deb http://third.example/apt stable nightly
deb http://flat.example/apt ./
"""
    assert with_component({"sources.list": text}, "non-free").splitlines() == [
        "deb http://plain.example/debian bookworm non-free",
        "deb [arch=amd64 signed-by=/usr/share/key.gpg] http://opts.example/debian "
        "bookworm-updates non-free",
    ]


def test_a_stanza_gives_every_pair_of_address_and_suite() -> None:
    text = """# the distribution
Types: deb deb-src
URIs: http://one.example/debian http://two.example/debian
# a comment within
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://third.example/apt
Suites: stable
Components: nightly

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
"""
    signed = "[signed-by=/usr/share/keyrings/debian.gpg]"
    assert with_component({"debian.sources": text}, "non-free").splitlines() == [
        f"deb {signed} http://{host}.example/debian {suite} non-free"
        for host in ("one", "two")
        for suite in ("bookworm", "bookworm-updates")
    ]


def test_a_disabled_stanza_is_left_out() -> None:
    text = "Enabled: no\nTypes: deb\nURIs: http://off.example\nSuites: x\nComponents: main\n"
    assert with_component({"off.sources": text}, "non-free") == ""


def test_other_files_and_nothing_suitable_give_nothing() -> None:
    line = "deb http://plain.example/debian bookworm main"
    assert with_component({"debian.list.save": line, "x.sources": "", "y.list": ""}, "x") == ""


FAKE_PYTHON = r"""
echo "python3 $*" >>"$LOG"
case "$*" in
"-m venv --clear .venv")
    rm -rf .venv
    mkdir -p .venv/bin
    printf '#!/bin/sh\necho "pip $*" >>"$LOG"\n' >.venv/bin/python
    printf '#!/bin/sh\n' >.venv/bin/coppice
    chmod +x .venv/bin/python .venv/bin/coppice
    ;;
esac
"""


class Checkout:
    """A copied tree whose python3 is a fake that only keeps a log of what set-up did."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "tree"
        for name in ("bin/setup", "requirements.lock", "pyproject.toml"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        (self.root / "harness/host").mkdir(parents=True)
        shutil.copy(ROOT / "harness/host/packages.py", self.root / "harness/host")
        tools = only(folder / "tools")
        script(tools / "python3", FAKE_PYTHON)
        self.log = folder / "log"
        self.environment = {**environment(str(tools), folder), "LOG": str(self.log)}

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([self.root / "bin/setup"], env=self.environment, cwd="/")

    def setup(self) -> list[str]:
        """Run it; what was done since."""
        self.log.write_text("")
        assert self.start().wait(30) == 0
        return self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_set_up_is_done_once_and_again_when_the_lock_changes(checkout: Checkout) -> None:
    done = checkout.setup()
    assert "python3 harness/host/packages.py" in done
    installs = [line for line in done if line.startswith("pip ")]
    assert "--require-hashes -r requirements.lock" in installs[0]
    assert "--no-deps --no-build-isolation -e ." in installs[1]
    assert checkout.setup() == []
    with (checkout.root / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert checkout.setup() == done
    assert checkout.setup() == []


def test_set_up_is_done_again_after_the_checkout_moved(checkout: Checkout, tmp_path: Path) -> None:
    done = checkout.setup()
    checkout.root = checkout.root.rename(tmp_path / "moved")
    assert checkout.setup() == done


def test_two_set_ups_at_once_make_one_environment(checkout: Checkout) -> None:
    checkout.log.write_text("")
    both = [checkout.start(), checkout.start()]
    assert [one.wait(30) for one in both] == [0, 0]
    assert checkout.log.read_text().count("-m venv --clear .venv") == 1


def test_a_failed_set_up_is_not_taken_for_done(checkout: Checkout) -> None:
    tool = Path(checkout.environment["PATH"]) / "python3"
    whole = tool.read_text()
    tool.write_text(whole.replace('"pip $*" >>"$LOG"', '"pip $*" >>"$LOG"; exit 1'))
    assert checkout.start().wait(30) != 0
    tool.write_text(whole)
    assert "python3 -m venv --clear .venv" in checkout.setup()


def test_here_a_second_set_up_takes_less_than_a_second() -> None:
    stamp = ROOT / ".venv/.setup-stamp"
    # A stale one is left alone: building anew would pull the environment from under these tests.
    state = "cd {} && {{ pwd; cat $({}); }} | sha256sum".format(
        ROOT, "sed -n \"s/^inputs='\\(.*\\)'/\\1/p\" bin/setup"
    )
    current = subprocess.run(["sh", "-c", state], capture_output=True, text=True, check=True)
    if not stamp.exists() or stamp.read_text() != current.stdout:
        pytest.skip("this checkout is not set up by bin/setup: bin/mise run setup")
    began = time.monotonic()
    done = subprocess.run([ROOT / "bin/setup"], capture_output=True, timeout=5)
    assert time.monotonic() - began < 1
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
