"""A whole run on "the other host": this machine, behind a real sshd in a namespace of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.cli import main
from harness.errors import DiskFull, HostKeyChanged, HostLost
from harness.host.locks import is_alive
from harness.measure import provenance
from harness.measure.record import digest, find, load
from harness.remote import remote_run
from harness.remote.ssh_connection import CONFIG, Address, Connection
from tests.host.processes import carrying, eventually
from tests.remote.server import THERE, Server, serving

NOOP = ("run", "cold-start", "--substrate", "noop", "--concurrency", "1")


@pytest.fixture(autouse=True)
def there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPPICE_HOST", THERE)
    monkeypatch.setenv(remote_run.PYTHON, sys.executable)


def copies(server: Server) -> list[Path]:
    """Directories of remote runs that are there."""
    directory = server.directory / "cache" / "coppice" / "remote"
    return list(directory.iterdir()) if directory.is_dir() else []


def test_records_of_a_run_there_come_here_and_nothing_stays(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*NOOP, "--results", str(tmp_path / "results")]) == 0
    out = capfd.readouterr().out
    assert "noop-durable-prewarm-pool-cc1" in out and "brought back: " in out, "progress is shown"
    (path,) = find(tmp_path / "results")
    record = load(path)
    assert all(one.samples for one in record.series)
    assert record.git == provenance.git(), "the copy knows which commit it is of"
    assert "COPPICE_HOST" not in record.command.env
    (kept,) = path.parent.glob("*.pytest-benchmark.json")
    assert kept.name.startswith(digest(kept)), "what stands beside it came by its digest too"
    assert copies(server) == []
    assert [one.name for one in (server.directory / "runtime").rglob("*")] == ["leases"]


def test_an_exit_code_and_an_error_there_are_ours(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = main(["run", "cold-start", "--substrate", "bhyve", "--results", str(tmp_path)])
    assert code == 69
    assert "coppice: bhyve needs" in capfd.readouterr().err
    assert copies(server) == [] and list(find(tmp_path)) == []


def test_a_wrong_command_line_goes_nowhere(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPPICE_HOST", "ftp://there")
    assert main([*NOOP]) == 64
    with pytest.raises(SystemExit):
        main(["run", "--profile", "tiny"])


PHASES = ("connected", "copy", "copying", "run", "fetch", "clean")


@pytest.mark.parametrize("when", PHASES)
def test_a_connection_lost_in_any_phase_is_one_clear_error_and_leaves_nothing(
    when: str, server: Server, tmp_path: Path
) -> None:
    def phase(name: str) -> None:
        if name == when:
            server.drop()
            eventually(lambda: server.sessions() == [])

    results = tmp_path / "results"
    with pytest.raises(HostLost, match="ended ") as lost:
        remote_run.run_remotely(Address.parse(THERE), NOOP, results, phase)
    assert "coppice clean" in str(lost.value) and lost.value.exit_code == 68
    eventually(lambda: copies(server) == [], 60)
    eventually(lambda: carrying(str(server.directory / "runtime")) == [], 60)
    assert len(list(find(results))) == (when == "clean"), "what had come is whole"


def test_a_full_disk_there_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], check=True)
    try:
        directory = tmp_path / "other"
        directory.mkdir()
        with serving(directory, {"HOME": str(directory), "XDG_CACHE_HOME": str(disk)}) as small:
            monkeypatch.setenv(CONFIG, str(small.config))
            with pytest.raises(DiskFull, match="no room on ssh://there") as full:
                remote_run.run_remotely(Address.parse(THERE), NOOP, tmp_path)
            assert full.value.exit_code == 74
        assert list(disk.rglob("*.py")) == [] and list((disk / "coppice/remote").iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_changed_key_stops_a_run_before_anything_is_sent(server: Server, tmp_path: Path) -> None:
    known = server.directory / "known"
    before = known.read_text()
    other = (server.directory / "key.pub").read_text().split()[1]
    known.write_text(f"[127.0.0.1]:2222 ssh-ed25519 {other}\n")
    try:
        with pytest.raises(HostKeyChanged):
            remote_run.run_remotely(Address.parse(THERE), NOOP, tmp_path)
    finally:
        known.write_text(before)
    assert copies(server) == []


def test_a_host_that_does_not_get_done_is_said(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_run, "ANSWER_LIMIT_S", 0.2)
    with Connection(Address.parse(THERE)) as connection:
        with pytest.raises(HostLost, match=r"did not end within 0.2 s: sleep 600") as lost:
            remote_run.ask(connection, "sleep 600")
    assert "coppice doctor" in (lost.value.hint or "")


def test_a_host_without_our_packages_is_told_which_to_install(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(remote_run.PYTHON, "/usr/bin/no-such-python")
    assert main([*NOOP]) == 69
    assert "no Python from 3.11 on with fastjsonschema, psutil" in capfd.readouterr().err
    # The doctor says it too, among whatever else it can see by the shell alone.
    assert main(["doctor"]) == 69
    assert "missing a Python with what a run needs" in capfd.readouterr().out


def test_the_doctor_there_is_that_hosts(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    out = capfd.readouterr().out
    assert '"substrates"' in out and copies(server) == []


@pytest.fixture
def killed(server: Server, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """A far end that was killed with all that it had started: its directory stays."""

    def phase(name: str) -> None:
        if name == "run":
            (directory,) = copies(server)
            # Again and again: the far end may be starting the harness this instant.
            eventually(
                lambda: with_kill(str(server.directory / "cache")) and not is_alive(directory)
            )

    def do() -> None:
        with pytest.raises(HostLost):
            remote_run.run_remotely(Address.parse(THERE), NOOP, tmp_path, phase)

    yield do


def with_kill(word: str) -> bool:
    """Kill whoever carries a word; whether it was nobody."""
    pids = carrying(word)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return not pids


def test_clean_there_removes_what_a_killed_far_end_left(
    server: Server, killed: Callable[[], None], capfd: pytest.CaptureFixture[str]
) -> None:
    killed()
    (left,) = copies(server)
    assert main(["clean"]) == 0
    assert f"removed directory {left}" in capfd.readouterr().out
    assert copies(server) == []


def test_a_lost_far_end_is_found_by_its_word(server: Server, tmp_path: Path) -> None:
    """Files that come back are those of the digests that were told, or none."""
    changed: list[Path] = []

    def phase(name: str) -> None:
        if name == "fetch":
            (directory,) = copies(server)
            record = next((directory / "out").rglob("*.run.json"))
            record.write_text(record.read_text() + " ")
            changed.append(record)

    with pytest.raises(HostLost, match="its digest differs"):
        remote_run.run_remotely(Address.parse(THERE), NOOP, tmp_path / "results", phase)
    assert changed and list(find(tmp_path / "results")) == []
    eventually(lambda: copies(server) == [])
