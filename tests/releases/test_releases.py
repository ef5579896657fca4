"""The driver of tests on other releases; CI's long run tests the releases themselves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.releases import root, run

TARGETS = (
    "http://one.example/debian bookworm main",
    "http://one.example/debian bookworm non-free",
    "http://one.example/debian bookworm-updates main",
    "http://one.example/security bookworm-security main",
    "http://two.example/apt cloud-bookworm main",
)


def test_the_lists_are_this_machines_for_the_other_release() -> None:
    assert root.other_lists(TARGETS, "bookworm", "trixie") == [
        "deb http://one.example/debian trixie main",
        "deb http://one.example/debian trixie-updates main",
        "deb http://one.example/security trixie-security main",
    ]


def test_only_variables_about_registries_are_passed_on() -> None:
    here = {"PIP_CERT": "/c", "https_proxy": "http://p", "SECRET": "s", "HOME": "/home/me",
            "COPPICE_KERNEL": "/boot/k", "PATH": "/opt/bin"}  # fmt: skip
    there = root.variables(here)
    assert there["PIP_CERT"] == "/c" and there["https_proxy"] == "http://p"
    assert there["HOME"] == "/root" and "/opt" not in there["PATH"]
    assert not {"SECRET", "COPPICE_KERNEL"} & there.keys()


def test_directories_in_pips_configuration_are_found(tmp_path: Path) -> None:
    (tmp_path / "index/simple").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    listed = (
        f"global.find-links='{tmp_path}/wheels /not/there'\n"
        f"global.extra-index-url='file://{tmp_path}/index/simple https://index.example/simple'\n"
        f"global.cert='{tmp_path}/wheels'\n"
    )
    assert root.pips_directories(listed) == [f"{tmp_path}/index", f"{tmp_path}/wheels"]


def test_the_main_job_and_the_tests_are_run_by_default() -> None:
    whole = run.steps(run.arguments(["trixie"]))
    assert list(whole) == ["bench", "tests", "clean", "versions"]
    assert whole["bench"] == "bin/mise run bench"
    assert list(run.steps(run.arguments(["trixie", "--only", "tests"]))) == [
        "tests", "clean", "versions",
    ]  # fmt: skip
    own = run.steps(run.arguments(["trixie", "echo", "a b"]))
    assert own == {"command": "bin/setup && echo 'a b'"}
    with pytest.raises(SystemExit):
        run.arguments(["slink"])


def test_a_root_is_removed_with_the_leftovers_of_a_killed_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "PLACE", tmp_path)
    (tmp_path / f"{run.PREFIX}dead" / "trixie").mkdir(parents=True)
    with run.place("trixie") as first:
        assert [path.parent for path in (first,)] == list(tmp_path.iterdir())
        with run.place("trixie") as second:
            assert first.is_dir() and second.is_dir()
        assert first.is_dir() and not second.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_root_is_locked_until_it_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PLACE", tmp_path)
    remove, removed = shutil.rmtree, []

    def noted(path: Path) -> None:
        with pytest.raises(BlockingIOError), run._locked(path):
            pass
        removed.append(path)
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", noted)
    with run.place("trixie") as made:
        pass
    assert removed == [made.parent] and not made.parent.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="creating namespaces needs root")
def test_a_root_is_entered_as_a_separate_machine(tmp_path: Path) -> None:
    """With a root of only busybox; its processes end with the command."""
    from harness.guest.image import static_busybox

    inside = tmp_path / "machine"
    for name in ("bin", "proc", "sys", "dev", "run", "root/coppice", "opt"):
        (inside / name).mkdir(parents=True)
    (inside / "bin/busybox").write_bytes(static_busybox().read_bytes())
    (inside / "bin/busybox").chmod(0o755)
    for applet in ("sh", "ls", "hostname", "sleep", "umount", "rmdir", "unshare", "cat"):
        (inside / "bin" / applet).symlink_to("busybox")
    looked = (
        "ls / > seen; hostname >> seen; sleep 600 & unshare -U cat /proc/self/uid_map || exit 4; "
        "exit 3"
    )
    assert run.enter(inside, looked) == 3
    seen = (inside / "root/coppice/seen").read_text(encoding="utf-8").split()
    assert seen[-1] == "coppice-machine" and ".host" not in seen and "work" not in seen
    assert str(inside) not in Path("/proc/self/mounts").read_text(encoding="utf-8")
    kept = [*(inside / "dev").iterdir(), *(inside / "run").iterdir()]
    assert kept == []
