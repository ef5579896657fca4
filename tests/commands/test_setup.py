"""Set-up: what it creates, stamps, locks and repairs."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness.setup import environment, packages

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project that locks one package, on a machine where no package is missing."""
    root = tmp_path / "checkout"
    (root / "harness" / "host").mkdir(parents=True)
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "door-test"\nversion = "1"\n[tool.setuptools]\npackages = []\n',
        encoding="utf-8",
    )
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    [setuptools] = re.findall(r"^setuptools==.*(?:\n    .*)*", lock, re.M)
    (root / "requirements.lock").write_text(setuptools + "\n", encoding="utf-8")
    monkeypatch.setattr(packages, "missing", lambda tests=False: [])
    return root


def _set_up(root: Path, again: bool = False) -> None:
    environment.set_up(root, tests=False, again=again)


@pytest.mark.timeout(900)  # creates two environments, possibly at low priority
def test_the_environment_is_created_once_and_again_after_the_lock_changes(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _set_up(checkout)
    python = checkout / ".venv" / "bin" / "python"
    shown = subprocess.run(
        [python, "-m", "pip", "list"], capture_output=True, text=True, encoding="utf-8"
    ).stdout
    assert {"setuptools", "door-test"} <= {line.split()[0] for line in shown.splitlines()}
    assert "setup: done" in capsys.readouterr().err

    mark = checkout / ".venv" / "mark"
    mark.touch()
    _set_up(checkout)
    assert mark.exists()
    assert capsys.readouterr().err == ""

    lock = checkout / "requirements.lock"
    lock.write_text(
        re.sub(r"sha256:\w{8}", "sha256:00000000", lock.read_text(encoding="utf-8")),
        encoding="utf-8",
    )
    with pytest.raises(environment.SetupFailed, match=r"pip .* exited with"):
        _set_up(checkout)
    assert "hashes" in capsys.readouterr().err.lower()
    assert not environment.environment_is_current(checkout)
    assert not mark.exists()


@pytest.fixture
def made(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The commands that set-up would run; the one for venv creates an interpreter."""
    ran: list[Sequence[str]] = []

    def run(command: Sequence[str], root: Path, lock: int) -> None:
        ran.append(command)
        if "venv" in command:
            shutil.rmtree(root / ".venv", ignore_errors=True)
            (root / ".venv" / "bin").mkdir(parents=True)
            (root / ".venv" / "bin" / "python").symlink_to(sys.executable)

    monkeypatch.setattr(environment, "_run", run)
    return ran


def test_only_hashed_requirements_are_installed(checkout: Path, made: list[Sequence[str]]) -> None:
    _set_up(checkout)
    _, requirements, project = made
    assert "--require-hashes" in requirements
    assert {"--no-deps", "--no-build-isolation"} <= set(project)


def _interpreter_gone(root: Path) -> None:
    (root / ".venv" / "bin" / "python").unlink()
    (root / ".venv" / "bin" / "python").symlink_to(root / "gone")


def _interpreter_replaced(root: Path) -> None:
    (root / ".venv" / "bin" / "python").unlink()
    (root / ".venv" / "bin" / "python").symlink_to(shutil.which("true") or "")


def _stamp_truncated(root: Path) -> None:
    (root / ".venv" / environment.STAMP).write_text('{"environment": "', encoding="utf-8")


def _project_changed(root: Path) -> None:
    with (root / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("# changed\n")


@pytest.mark.parametrize(
    "spoil", [_interpreter_gone, _interpreter_replaced, _stamp_truncated, _project_changed]
)
def test_an_incomplete_environment_is_made_again(
    checkout: Path, made: list[Sequence[str]], spoil: Callable[[Path], None]
) -> None:
    _set_up(checkout)
    assert len(made) == 3
    _set_up(checkout)
    assert len(made) == 3
    spoil(checkout)
    _set_up(checkout)
    assert len(made) == 6
    assert environment.environment_is_current(checkout)


def test_a_checkout_that_moved_is_set_up_again(checkout: Path, made: list[Sequence[str]]) -> None:
    _set_up(checkout)
    moved = checkout.rename(checkout.with_name("moved"))
    _set_up(moved)
    assert len(made) == 6


def test_an_interrupted_set_up_is_completed_by_the_next(
    checkout: Path, made: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_up(checkout)
    whole = environment._run

    def interrupted(command: Sequence[str], root: Path, lock: int) -> None:
        if "--require-hashes" in command:
            raise KeyboardInterrupt
        whole(command, root, lock)

    monkeypatch.setattr(environment, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _set_up(checkout, again=True)
    assert not environment.environment_is_current(checkout)
    monkeypatch.setattr(environment, "_run", whole)
    _set_up(checkout)
    assert environment.environment_is_current(checkout)


def test_unavailable_packages_are_retried_only_on_request(
    checkout: Path, made: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = ["netperf"]
    tried = []

    def install(tests: bool) -> list[str]:
        tried.append(list(absent))
        return ["netperf"]

    monkeypatch.setattr(packages, "missing", lambda tests=False: list(absent))
    monkeypatch.setattr(packages, "install", install)
    _set_up(checkout)
    _set_up(checkout)
    assert tried == [["netperf"]]
    absent.append("lz4")  # removed by the user
    _set_up(checkout)
    assert len(tried) == 2
    absent.remove("lz4")
    _set_up(checkout)
    assert len(tried) == 2
    assert len(made) == 3  # missing packages do not cause a new environment
    _set_up(checkout, again=True)
    assert len(tried) == 3


HOLD = """
import subprocess, sys
from pathlib import Path
from harness.setup.environment import locked
with locked(Path(sys.argv[1])) as lock:
    waits = 'while ! test -e "$0"; do sleep 0.05; done'
    child = subprocess.Popen(["sh", "-c", waits, sys.argv[2]], pass_fds=(lock,))
    print("held", flush=True)
    child.wait()
"""


class _Touching(io.StringIO):
    """A stderr whose first write lets the holder's child end."""

    def __init__(self, flag: Path) -> None:
        super().__init__()
        self._flag = flag

    def write(self, text: str) -> int:
        self._flag.touch()
        return super().write(text)


def _hold(root: Path, until: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(root), str(until)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, encoding="utf-8")


@pytest.mark.parametrize("killed", [False, True])
def test_one_set_up_at_a_time_even_when_only_its_child_is_left(
    checkout: Path, killed: bool
) -> None:
    flag = checkout / "go on"
    with _hold(checkout, flag) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        if killed:
            os.kill(holder.pid, signal.SIGKILL)
        with contextlib.redirect_stderr(_Touching(flag)) as stderr:
            with environment.locked(checkout):
                assert flag.exists(), "the lock was taken before it was released"
    assert "waiting for another set-up" in stderr.getvalue()


def test_an_older_python_is_refused_in_one_sentence(tmp_path: Path) -> None:
    fake = tmp_path / "python3"
    pretend = "import sys; sys.version_info = (3, 9, 2); exec(sys.argv.pop(1))"
    fake.write_text(
        f"#!/bin/sh\nshift\nexec {sys.executable} -c '{pretend}' \"$@\"\n", encoding="utf-8"
    )
    fake.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [ROOT / "bin" / "setup"], env=env, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 69
    [sentence] = done.stderr.splitlines()
    assert "python3 is 3.9, but 3.11 or newer is needed" in sentence


def test_the_lock_pins_and_hashes_every_requirement_and_names_no_location() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pinned = {}
    for entry in re.findall(r"^[^\s#].*(?:\n    .*)*", text, re.M):
        found = re.match(r"([a-z0-9-]+)==([\w.]+)(?: ;.*)? \\\n", entry)
        assert found, entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry)
        pinned[found[1]] = found[2]
    assert "://" not in text
    assert " /" not in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = itertools.chain(*project["optional-dependencies"].values())
    wanted = [*project["dependencies"], *extras]
    names = {re.split(r"[<>=~ ]", name)[0].lower().replace("_", "-") for name in wanted}
    assert names - pinned.keys() == set()


def test_a_second_set_up_of_this_checkout_is_fast() -> None:
    if not environment.environment_is_current(ROOT) or packages.missing(tests=True):
        pytest.skip("set-up has not run in this checkout, or packages are unavailable")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [ROOT / "bin" / "setup"], capture_output=True, text=True, encoding="utf-8"
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    # CPU seconds, because elapsed time depends on what else runs.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_no_file_names_a_registrys_host() -> None:
    hosts = ["registry.npm" + "js", "py" + "pi.org", "files.python" + "hosted", "deb." + "debian"]
    command = [
        "git",
        "grep",
        "-l",
        "-I",
        "-F",
        *(option for host in hosts for option in ("-e", host)),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (1, "")
