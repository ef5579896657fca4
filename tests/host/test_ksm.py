"""Samepage merging affects only our processes, and the host's settings are always restored."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import Unsupported
from harness.host.ksm import NOTE, SETTINGS, abandoned, merging, program, reset
from harness.host.run import Run
from harness.host.session import open_run
from tests.host.processes import coppice, eventually, next_line, start

FOUND = {
    "run": "0\n",
    "pages_to_scan": "77\n",
    "sleep_millisecs": "333\n",
    "advisor_mode": "none [scan-time]\n",
    "full_scans": "5\n",
}
MERGE_AND_HANG = """
import sys, time
from pathlib import Path
from harness.host.ksm import merging
from harness.host.session import open_run
with open_run() as run, merging(run, Path(sys.argv[1])):
    print(run.directory, flush=True)
    time.sleep(600)
"""
EQUAL_PAGES = """
import mmap, os, sys
held = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held.write((b"equal" + bytes(4091)) * 2048)
print("ready", flush=True)
sys.stdin.read()
"""
needs_merging = pytest.mark.skipif(
    not os.access(SETTINGS / "run", os.W_OK), reason="needs root and a kernel that merges"
)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A directory like the kernel's, with settings made by the user."""
    directory = tmp_path / "ksm"
    directory.mkdir()
    for name, text in FOUND.items():
        (directory / name).write_text(text, encoding="utf-8")
    return directory


def values(settings: Path) -> dict[str, str]:
    return {name: (settings / name).read_text(encoding="utf-8").strip() for name in FOUND}


def restored(settings: Path) -> bool:
    """The kernel shows the active advisor in brackets after its name is written."""
    return values(settings) == {name: text.strip() for name, text in FOUND.items()} | {
        "advisor_mode": "scan-time"
    }


@pytest.fixture
def run(runtime: Path, cache: Path) -> Iterator[Run]:
    with open_run(runtime) as opened:
        yield opened


def test_settings_while_scanning_fast_and_slowly_and_afterwards(run: Run, settings: Path) -> None:
    with merging(run, settings) as merger:
        fast = values(settings)
        assert fast["run"] == "1" and fast["advisor_mode"] == "none"
        assert int(fast["pages_to_scan"]) > 1000
        assert merger.count("full_scans") == 5
        merger.scan_slowly()
        assert int(values(settings)["pages_to_scan"]) < int(fast["pages_to_scan"])
        merger.scan_fast()
        assert values(settings) == fast
    assert restored(settings) and not (run.directory / NOTE).exists()


def test_settings_are_restored_after_an_exception(run: Run, settings: Path) -> None:
    with pytest.raises(KeyboardInterrupt), merging(run, settings):
        raise KeyboardInterrupt
    assert restored(settings)


def test_a_kernel_without_ksm_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="no samepage merging"), merging(run, tmp_path):
        pass


def test_settings_are_restored_by_clean_after_sigkill(
    runtime: Path, cache: Path, settings: Path
) -> None:
    with start(MERGE_AND_HANG, str(settings)) as process:
        directory = Path(next_line(process))
        assert values(settings)["run"] == "1"
        assert "No leftovers" in coppice("clean").stdout, "a live run keeps its settings"
        process.kill()
        process.wait()
    assert values(settings)["run"] == "1"
    dry = coppice("clean", "--dry-run")
    assert f"would remove settings {directory / NOTE}" in dry.stdout and not restored(settings)
    done = coppice("clean")
    assert done.returncode == 0, done.stderr
    assert restored(settings) and not directory.exists()


def test_a_second_run_does_not_save_the_settings_of_the_first(
    runtime: Path, cache: Path, settings: Path
) -> None:
    with start(MERGE_AND_HANG, str(settings)) as process:
        next_line(process)
        with (
            open_run(runtime) as run,
            pytest.raises(Unsupported, match="is using samepage merging"),
        ):
            with merging(run, settings):
                pass
        process.kill()
    with open_run(runtime):
        assert restored(settings), "a new run reclaims the settings of a dead run"


def test_settings_of_a_dead_run_without_directory_are_recognised_by_value(
    runtime: Path, cache: Path, settings: Path
) -> None:
    with start(MERGE_AND_HANG, str(settings)) as process:
        directory = Path(next_line(process))
        assert not abandoned(settings), "the run is alive"
        process.kill()
        process.wait()
    shutil.rmtree(directory)
    assert abandoned(settings)
    reset(settings)
    assert values(settings)["run"] == "0" and not abandoned(settings)


@needs_merging
def test_the_kernel_merges_only_processes_started_through_the_program(
    run: Run, cache: Path
) -> None:
    before = {
        name: (SETTINGS / name).read_text(encoding="utf-8") for name in ("run", "pages_to_scan")
    }
    python = [sys.executable, "-c", EQUAL_PAGES]

    def hold(words: list[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout and process.stdout.readline() == b"ready\n"
        return process

    def merged(process: subprocess.Popen[bytes]) -> int:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="utf-8")
        return int(text.partition("KSM:")[2].split()[0])

    with merging(run), hold([str(program(cache)), *python]) as ours, hold(python) as other:
        try:
            eventually(lambda: merged(ours) >= 7 << 10, 200)  # a busy host's ksmd is slow
            assert merged(other) == 0
            assert (
                int(Path(f"/proc/{ours.pid}/personality").read_text(encoding="utf-8"), 16) & 0x40000
            )
        finally:
            ours.communicate(b"")
            other.communicate(b"")
    assert {name: (SETTINGS / name).read_text(encoding="utf-8") for name in before} == before


def test_a_note_names_the_directory_of_the_settings(run: Run, settings: Path) -> None:
    with merging(run, settings):
        told = json.loads((run.directory / NOTE).read_text(encoding="utf-8"))
    assert told["settings"] == str(settings) and told["found"]["advisor_mode"] == "scan-time"
