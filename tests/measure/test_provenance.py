"""The origin of a record, tested with git repositories made for it."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from importlib import metadata
from pathlib import Path

import pytest

from harness import __version__, paths
from harness.errors import UsageError
from harness.measure import provenance, record
from tests.measure.factory import run_record


def _git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    argv = ["git", "-C", str(directory), *identity, *arguments]
    return subprocess.run(
        argv, check=True, capture_output=True, text=True, env=clean, encoding="utf-8"
    ).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    directory = tmp_path / "checkout"
    (directory / "rigs").mkdir(parents=True)
    (directory / "rigs" / "test_one.py").write_text("one\n", encoding="utf-8")
    (directory / ".gitignore").write_text("/_site/\n", encoding="utf-8")
    _git(directory, "init", "--quiet")
    _git(directory, "add", ".")
    _git(directory, "commit", "--quiet", "-m", "one")
    return directory


def test_a_clean_checkout(checkout: Path) -> None:
    found = provenance.git(checkout)
    assert found == record.Git(_git(checkout, "rev-parse", "HEAD").strip(), False)
    assert re.fullmatch("[0-9a-f]{40}", found.commit or "")


def test_changes_that_make_it_dirty(checkout: Path) -> None:
    (checkout / "rigs" / "test_one.py").write_text("two\n", encoding="utf-8")
    assert provenance.git(checkout).dirty is True
    _git(checkout, "add", ".")
    assert provenance.git(checkout).dirty is True
    _git(checkout, "commit", "--quiet", "-m", "two")
    assert provenance.git(checkout).dirty is False
    (checkout / "rigs" / "test_two.py").write_text("not tracked\n", encoding="utf-8")
    assert provenance.git(checkout).dirty is True


def test_changes_that_do_not_make_it_dirty(checkout: Path) -> None:
    for name in ("results/machine/x.run.json", "_site/index.html"):
        (checkout / name).parent.mkdir(parents=True)
        (checkout / name).write_text("{}", encoding="utf-8")
    assert provenance.git(checkout).dirty is False
    assert provenance.git(checkout, apart=()).dirty is True


def test_without_a_checkout_or_git_both_are_null(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nothing = record.Git(None, None)
    assert provenance.git(tmp_path) == nothing
    assert provenance.git(checkout / "rigs") == nothing  # part of another repository
    assert provenance.git(tmp_path / "not-there") == nothing
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git(checkout) == nothing


def test_a_repository_without_commits_has_no_commit(tmp_path: Path) -> None:
    _git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert provenance.git(tmp_path) == record.Git(None, True)


def test_git_variables_of_a_hook_are_ignored(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    _git(other, "init", "--quiet")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert provenance.git(checkout).commit == _git(checkout, "rev-parse", "HEAD").strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
def test_root_reads_the_checkout_of_another_user(checkout: Path) -> None:
    for path in (checkout, checkout / ".git"):
        os.chown(path, 12345, 12345)
    assert provenance.git(checkout).dirty is False


def test_the_command_is_recorded_exactly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COPPICE_ACCELERATOR", "tcg")
    monkeypatch.setenv("OTHER_SECRET", "x")
    here, home = Path("/srv/checkout"), Path("/home/somebody")
    monkeypatch.setattr(paths, "DATA", here)
    monkeypatch.setenv("HOME", str(home))
    given = [f"{here}/.venv/bin/python", f"{here}-else", f"--out={home}/lab", f"{home}-else", "x"]
    monkeypatch.setattr(sys, "orig_argv", given)
    found = provenance.command("bin/mise run bench")
    written = ("./.venv/bin/python", f"{here}-else", "--out=~/lab", f"{home}-else", "x")
    assert found.argv == written
    assert (found.cwd, found.task) == (str(tmp_path), "bin/mise run bench")
    assert found.env["COPPICE_ACCELERATOR"] == "tcg"
    assert all(name.startswith("COPPICE_") for name in found.env)
    record.check(run_record(command=found).to_json())


def test_a_record_does_not_disclose_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("COPPICE_GUEST_AGENT", "/home/me/agent")
    monkeypatch.setattr(sys, "orig_argv", ["x", "--results=/home/me/r", "/home/me", "/home/mel/r"])
    found = provenance.command("")
    assert list(found.argv) == ["x", "--results=~/r", "~", "/home/mel/r"]
    assert found.env["COPPICE_GUEST_AGENT"] == "~/agent"


def test_passwords_are_left_out_of_the_record() -> None:
    given = {
        "COPPICE_HOST": "ssh://me:hunter2@host/x",
        "COPPICE_API_KEY": "hunter2",
        "COPPICE_TOKEN": "hunter2",
        "COPPICE_CACHE": "/a:b@c",
        "HOME": "/home/me",
    }
    assert provenance.environment(given) == {
        "COPPICE_API_KEY": "(left out)",
        "COPPICE_CACHE": "/a:b@c",
        "COPPICE_HOST": "ssh://me:(left out)@host/x",
        "COPPICE_TOKEN": "(left out)",
    }
    assert provenance.environment({"COPPICE_HOST": "ssh://me@host"}) == {
        "COPPICE_HOST": "ssh://me@host"
    }


def _program(directory: Path, name: str, script: str) -> str:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_versions_of_tools(tmp_path: Path) -> None:
    two = _program(tmp_path, "two", 'echo; echo "two 2.1 (Debian $1)"; echo Copyright')
    netperf = _program(tmp_path, "netperf", 'echo "netperf $1"')
    mute = _program(tmp_path, "mute", "exit 1")
    bhyve = _program(tmp_path, "bhyve", 'echo started; touch "$0.ran"')
    found = provenance.tools([two, netperf, mute, bhyve, "no-such-program-here"])
    assert found["two"] == "two 2.1 (Debian --version)"
    assert found["netperf"] == "netperf -V"
    assert found["mute"] == "unknown"
    assert found["bhyve"] == "unknown" and not Path(f"{bhyve}.ran").exists()
    assert "no-such-program-here" not in found
    assert found["pytest"] == pytest.__version__
    assert found["pytest-benchmark"] == metadata.version("pytest-benchmark")
    assert found["python"].split() == ["CPython", sys.version.split()[0]]
    record.check(run_record(tools=found).to_json())


def test_a_rig_is_identified_by_its_files_content(checkout: Path) -> None:
    found = provenance.rig("one", checkout / "rigs" / "test_one.py", checkout)
    assert found == record.Rig("one", "rigs/test_one.py", hashlib.sha256(b"one\n").hexdigest())
    with pytest.raises(UsageError, match=r"cannot read the file .* of the rig two"):
        provenance.rig("two", checkout / "rigs" / "test_two.py", checkout)


def test_a_rig_outside_of_the_checkout_does_not_disclose_its_path(
    checkout: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "test_other.py"
    outside.write_text("x", encoding="utf-8")
    assert provenance.rig("other", outside, checkout).path == "test_other.py"


def test_patches_are_listed_and_marked_applied_on_request(tmp_path: Path) -> None:
    for name in ("b/0001-one.patch", "a/one.diff", "a/README.md"):
        (tmp_path / "patches" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "patches" / name).write_text(name, encoding="utf-8")
    found = provenance.patches(tmp_path)
    assert [(one.path, one.applied) for one in found] == [
        ("patches/a/one.diff", False),
        ("patches/b/0001-one.patch", False),
    ]
    assert found[0].sha256 == hashlib.sha256(b"a/one.diff").hexdigest()
    told = provenance.patches(tmp_path, applied=["patches/a/one.diff"])
    assert [one.applied for one in told] == [True, False]
    with pytest.raises(UsageError, match="unknown patch: c"):
        provenance.patches(tmp_path, applied=["c"])
    assert provenance.patches(tmp_path / "patches") == ()


def test_times_are_utc() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678, timezone(timedelta(hours=2)))
    assert provenance.utc_now(moment) == "2026-01-02T01:04:05.000678Z"
    now = datetime.fromisoformat(provenance.utc_now())
    assert abs((datetime.now(UTC) - now).total_seconds()) < 60


def test_the_version_names_the_commit_that_runs() -> None:
    assert Path(__file__).parents[2] == paths.CHECKOUT
    commit = provenance.git().commit
    if commit is None:
        pytest.skip("needs git and this checkout's history")
    version = provenance.harness().version
    assert f"+g{commit[:9]}" in version and version.startswith(__version__.split(".dev")[0])


def test_an_installed_package_knows_the_commit_that_it_was_built_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "BUILT_FROM", tmp_path / "built-from.json")
    assert provenance.git(None) == record.Git(None, None)
    paths.BUILT_FROM.write_text('{"commit": "abc", "dirty": false}', encoding="utf-8")
    assert provenance.git(None) == record.Git("abc", False)
