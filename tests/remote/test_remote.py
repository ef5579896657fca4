"""A whole run on a remote host: this machine, behind a real sshd in its own network namespace."""

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
from harness.measure.record import find, load
from harness.measure.record_digests import beside
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
    """The directories of remote runs on the host."""
    directory = server.directory / "cache" / "coppice" / "remote"
    return list(directory.iterdir()) if directory.is_dir() else []


def test_records_of_a_remote_run_are_fetched_and_nothing_is_left(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*NOOP, "--results", str(tmp_path / "results")]) == 0
    out = capfd.readouterr().out
    assert "noop-durable-prewarm-pool-cc1" in out and "records fetched to " in out, (
        "progress is shown"
    )
    (path,) = find(tmp_path / "results")
    record = load(path)
    assert all(one.samples for one in record.series)
    assert record.git == provenance.git(), "the copy knows its commit"
    assert "COPPICE_HOST" not in record.command.env
    (kept,) = path.parent.glob("*.pytest-benchmark.json")
    assert kept == beside(path), "the file next to the record was fetched too"
    assert copies(server) == []
    assert [path.name for path in (server.directory / "runtime").rglob("*")] == ["leases"]


def test_a_remote_exit_code_and_error_are_passed_on(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = main(["run", "cold-start", "--substrate", "bhyve", "--results", str(tmp_path)])
    assert code == 69
    assert "coppice: bhyve needs" in capfd.readouterr().err
    assert copies(server) == [] and list(find(tmp_path)) == []


def test_a_wrong_command_line_is_refused_before_connecting(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPPICE_HOST", "ftp://there")
    assert main([*NOOP]) == 64
    with pytest.raises(SystemExit):
        main(["run", "--profile", "tiny"])


PHASES = ("connected", "copy", "copying", "run", "fetch", "clean")


@pytest.mark.parametrize("when", PHASES)
def test_a_connection_lost_in_any_phase_is_a_clear_error_and_leaves_nothing(
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
    assert len(list(find(results))) == (when == "clean"), "a fetched record is complete"


def test_a_full_remote_disk_is_reported_and_leaves_nothing(
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
            with pytest.raises(DiskFull, match="no space left on ssh://there") as full:
                remote_run.run_remotely(Address.parse(THERE), NOOP, tmp_path)
            assert full.value.exit_code == 74
        assert list(disk.rglob("*.py")) == [] and list((disk / "coppice/remote").iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_changed_host_key_stops_a_run_before_anything_is_sent(
    server: Server, tmp_path: Path
) -> None:
    known = server.directory / "known"
    before = known.read_text(encoding="utf-8")
    other = (server.directory / "key.pub").read_text(encoding="utf-8").split()[1]
    known.write_text(f"[127.0.0.1]:2222 ssh-ed25519 {other}\n", encoding="utf-8")
    try:
        with pytest.raises(HostKeyChanged):
            remote_run.run_remotely(Address.parse(THERE), NOOP, tmp_path)
    finally:
        known.write_text(before, encoding="utf-8")
    assert copies(server) == []


def test_a_host_that_does_not_answer_in_time_is_reported(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_run, "ANSWER_LIMIT_S", 0.2)
    with Connection(Address.parse(THERE)) as connection:
        with pytest.raises(HostLost, match=r"did not finish within 0.2 s: sleep 600") as lost:
            remote_run.ask(connection, "sleep 600")
    assert "coppice doctor" in (lost.value.hint or "")


def test_missing_python_packages_of_a_host_are_named(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(remote_run.PYTHON, "/usr/bin/no-such-python")
    assert main([*NOOP]) == 69
    assert "no Python 3.11 or newer with fastjsonschema, psutil" in capfd.readouterr().err
    # The doctor reports it too, with what else it finds out through the shell alone.
    assert main(["doctor"]) == 69
    assert "missing Python with the packages that a run needs" in capfd.readouterr().out


def test_doctor_reports_on_the_remote_host(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    main(["doctor", "--json"])
    out = capfd.readouterr().out
    assert '"substrates"' in out and copies(server) == []


@pytest.fixture
def killed(server: Server, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Kills a worker and all that it has started, which leaves its directory."""

    def phase(name: str) -> None:
        if name == "run":
            (directory,) = copies(server)
            # Repeated, because the worker may be starting the harness at this moment.
            eventually(
                lambda: with_kill(str(server.directory / "cache")) and not is_alive(directory)
            )

    def do() -> None:
        with pytest.raises(HostLost):
            remote_run.run_remotely(Address.parse(THERE), NOOP, tmp_path, phase)

    yield do


def with_kill(text: str) -> bool:
    """Kill every process that carries a text; True when there was none."""
    pids = carrying(text)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return not pids


def test_clean_removes_what_a_killed_worker_has_left(
    server: Server, killed: Callable[[], None], capfd: pytest.CaptureFixture[str]
) -> None:
    killed()
    (left,) = copies(server)
    assert main(["clean"]) == 0
    assert f"removed directory {left}" in capfd.readouterr().out
    assert copies(server) == []


def test_a_file_with_another_digest_is_not_stored(server: Server, tmp_path: Path) -> None:
    changed: list[Path] = []

    def phase(name: str) -> None:
        if name == "fetch":
            (directory,) = copies(server)
            record = next((directory / "out").rglob("*.run.json"))
            record.write_text(record.read_text(encoding="utf-8") + " ", encoding="utf-8")
            changed.append(record)

    with pytest.raises(HostLost, match="its digest differs"):
        remote_run.run_remotely(Address.parse(THERE), NOOP, tmp_path / "results", phase)
    assert changed and list(find(tmp_path / "results")) == []
    eventually(lambda: copies(server) == [])
