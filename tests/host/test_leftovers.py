from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.host import cgroups
from harness.host.cgroups import parent_of
from harness.host.identity import SHARED_LEASE, allocate
from harness.host.ksm import NOTE
from harness.host.leftovers import find
from harness.host.run import VARIABLE
from harness.host.session import open_run
from harness.sandbox.protocol import load
from tests.host.processes import (
    HOLD_A_RUN,
    QEMU_POOL,
    ROOT,
    carrying,
    coppice,
    eventually,
    next_line,
    start,
    what_is_there,
)

needs_qemu = pytest.mark.skipif(
    not all(need.satisfied for need in load("qemu").requirements()),
    reason="QEMU is not installed: bin/mise run setup",
)


@pytest.fixture
def dead(runtime: Path, cache: Path) -> Iterator[Path]:
    """The directory of a killed run, with a marked process, a lease and a file."""
    process = start(HOLD_A_RUN)
    directory = Path(next_line(process))
    allocate(runtime / "leases", directory.name)
    (directory / "vmm.log").write_text("said", encoding="utf-8")
    orphan = subprocess.Popen(["sleep", "600"], env={**os.environ, VARIABLE: str(directory)})
    process.kill()
    process.wait()
    assert process.stdout
    process.stdout.close()
    yield directory
    orphan.kill()
    orphan.wait()


@needs_qemu
@pytest.mark.parametrize("phase", ["launching", "ready", "out", "forked"])
def test_clean_removes_everything_of_a_killed_harness(phase: str, runtime: Path) -> None:
    with start(HOLD_A_RUN) as neighbour, start(QEMU_POOL, phase) as process:
        try:
            beside = Path(next_line(neighbour))
            neighbours_lease = allocate(runtime / "leases", beside.name).lease
            directory = next_line(process)
            if directory == "cannot be forked":
                pytest.skip(directory)
            mark = f"{VARIABLE}={directory}"
            assert Path(directory).parent == runtime
            eventually(lambda: bool(carrying(mark)))
            process.kill()
            process.wait()
            # A VMM that is still waiting for its checkpoint ends with the harness; others do not.
            assert len(carrying(mark)) >= 2 or phase == "launching"
            grouped = Path(directory).name in cgroups.find().of_runs(runtime)
            assert grouped or phase == "launching" or os.geteuid() != 0

            dry = coppice("clean", "--dry-run")
            assert dry.returncode == 0 and f"would remove directory {directory}" in dry.stdout
            assert "would remove process" in dry.stdout or phase == "launching"
            assert Path(directory).is_dir()

            done = coppice("clean")
            assert done.returncode == 0, done.stderr
            assert f"removed directory {directory}" in done.stdout
            assert carrying(mark) == []
            assert Path(directory).name not in cgroups.find().of_runs(runtime)
            assert beside.is_dir() and neighbours_lease.exists() and neighbour.poll() is None
            there = {beside / "owner.lock", beside / SHARED_LEASE, neighbours_lease}
            kept = {str(path) for path in (beside, *there)}
            assert set(what_is_there(runtime)) == kept
        finally:
            process.kill()
            neighbour.send_signal(signal.SIGINT)
    assert set(what_is_there(runtime)) <= {str(neighbours_lease)}


def test_dry_run_lists_leftovers_and_removes_nothing(dead: Path, runtime: Path) -> None:
    before = what_is_there(runtime)
    dry = coppice("clean", "--dry-run")
    assert dry.returncode == 0
    lines = dry.stdout.splitlines()
    assert {line.split()[2] for line in lines} == {"process", "directory", "lease"}
    assert all(dead.name in line for line in lines)
    assert what_is_there(runtime) == before
    assert carrying(f"{VARIABLE}={dead}")


def test_the_next_run_reclaims_leftovers(dead: Path, runtime: Path) -> None:
    with open_run() as run:
        # Our child stays a zombie until it is reaped; a zombie has no environment.
        assert carrying(f"{VARIABLE}={dead}") == []
        assert what_is_there(runtime) == [str(run.directory), str(run.directory / "owner.lock")]


@pytest.mark.parametrize("torn", [b"", b"\0" * 25, b"\xf4\x80 no text", b"../../etc"])
def test_files_torn_by_a_host_crash_are_leftovers(torn: bytes, dead: Path, runtime: Path) -> None:
    # /var/run survives a reboot on FreeBSD; unsynced files may then have any content.
    (runtime / "leases" / "7").write_bytes(torn)
    (dead / "owner.lock").write_bytes(torn or b"1")  # an empty file may be about to be locked
    (dead / NOTE).write_bytes(torn)
    done = coppice("clean")
    assert done.returncode == 0, done.stderr
    assert f"removed lease {runtime}/leases/7" in done.stdout
    assert what_is_there(runtime) == []


KILLED_AT_A_LEASE = """
import os, signal, sys
from pathlib import Path
from harness.host import identity
from harness.host.session import open_run

def die(file, *_, **__):
    file.touch()
    os.kill(os.getpid(), signal.SIGKILL)

def no_more_links(*_):
    raise OSError("no more links")

with open_run() as run:
    print(run.directory, flush=True)
    step, beside = sys.argv[1].split()
    if step == "empty":
        Path.write_text = die
    else:
        os.link = die
    if beside == "beside":  # as where one file has no more links
        identity._shared = no_more_links
    identity.allocate(run.leases, run.id)
"""


@pytest.mark.parametrize("step", ["empty", "whole"])
def test_an_incomplete_lease_of_a_killed_run_is_removed_at_once(
    step: str, runtime: Path, cache: Path
) -> None:
    with start(KILLED_AT_A_LEASE, f"{step} beside") as process:
        directory = Path(next_line(process))
        assert process.wait(60) == -signal.SIGKILL
    (begun,) = (runtime / "leases").iterdir()
    assert [(one.what, one.run_id) for one in find(runtime)] == [
        ("directory", directory.name), ("lease", directory.name),
    ]  # fmt: skip
    assert coppice("clean").returncode == 0
    assert not begun.exists() and what_is_there(runtime) == []


@pytest.mark.parametrize("step", ["empty", "whole"])
def test_a_lease_that_was_to_be_a_link_leaves_nothing_but_the_runs_directory(
    step: str, runtime: Path, cache: Path
) -> None:
    with start(KILLED_AT_A_LEASE, f"{step} linked") as process:
        directory = Path(next_line(process))
        assert process.wait(60) == -signal.SIGKILL
    assert [(one.what, one.run_id) for one in find(runtime)] == [("directory", directory.name)]
    assert coppice("clean").returncode == 0
    assert not list((runtime / "leases").iterdir()) and what_is_there(runtime) == []


def test_clean_reports_when_there_is_nothing_to_do(runtime: Path, cache: Path) -> None:
    done = coppice("clean")
    assert (done.returncode, done.stdout) == (0, "No leftovers found\n")


def test_a_process_of_another_runtime_directory_is_left_alone(runtime: Path, cache: Path) -> None:
    elsewhere = {**os.environ, VARIABLE: str(runtime.parent / "other" / "run")}
    with subprocess.Popen(["sleep", "600"], env=elsewhere) as other:
        try:
            runtime.mkdir()
            coppice("clean")
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace of its own needs root")
@pytest.mark.parametrize("root", ["/", "/usr"], ids=["plain", "of-another-root"])
def test_a_run_of_a_container_is_left_alone(runtime: Path, cache: Path, root: str) -> None:
    """In the container, the same path is another directory, which this host does not have; a
    confined process of that run does not see it either."""
    runtime.parent.mkdir(exist_ok=True)
    inside = f"""
        mount -t tmpfs inside {runtime.parent} && exec {sys.executable} -c "$1" {root}
    """
    holds = """if True:
        import os, subprocess, sys
        from harness.host.cgroups import parent_of
        from harness.host.run import VARIABLE
        from harness.host.session import open_run
        with open_run() as run:
            mark = {**os.environ, VARIABLE: str(run.directory)}
            jailed = lambda: os.chroot(sys.argv[1])
            with subprocess.Popen(["/bin/sleep", "600"], env=mark, preexec_fn=jailed) as child:
                print(child.pid, parent_of(run.directory.parent), flush=True)
                sys.stdin.read()
                child.kill()
    """
    command = ["unshare", "--mount", "sh", "-ec", inside, "sh", holds]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        encoding="utf-8",
    ) as process:
        assert process.stdin and process.stdout
        pid, group = process.stdout.readline().split()
        assert group != parent_of(runtime)
        assert not runtime.exists() or what_is_there(runtime) == []
        done = coppice("clean")
        assert (done.returncode, done.stdout) == (0, "No leftovers found\n")
        os.kill(int(pid), 0)
        process.stdin.close()
    assert process.returncode == 0


def test_a_run_that_begins_during_the_search_is_not_taken_for_dead(
    runtime: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search lists directories first; a run that is not listed has leases and processes,
    too."""
    runtime.mkdir()
    listed = Path.iterdir
    begun: list[subprocess.Popen[str]] = []

    def iterdir(self: Path) -> Iterator[Path]:
        entries = list(listed(self))
        if self == runtime and not begun:
            begun.append(start(HOLD_A_RUN))
            directory = Path(next_line(begun[0]))
            allocate(runtime / "leases", directory.name)
            marked = {**os.environ, VARIABLE: str(directory)}
            begun.append(
                subprocess.Popen(["sleep", "600"], env=marked, text=True, encoding="utf-8")
            )
        return iter(entries)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    try:
        assert find(runtime) == []
        assert len(begun) == 2
    finally:
        for process in begun:
            process.kill()
            process.communicate()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_mounts_in_a_dead_runs_directory_are_unmounted(dead: Path) -> None:
    point = dead / "with space"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", point], check=True)
    try:
        done = coppice("clean")
        assert f"removed mount {point}" in done.stdout, done.stderr
        assert str(dead) not in Path("/proc/self/mounts").read_text(encoding="utf-8")
        assert not dead.exists()
    finally:
        if point.is_mount():
            subprocess.run(["umount", "-l", point], check=True)
