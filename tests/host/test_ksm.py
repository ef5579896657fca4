"""Samepage merging for our processes only, and the host's settings back whatever happens."""

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
from tests.host.processes import coppice, eventually, said, start

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
    """A directory like the kernel's, with settings of somebody's own."""
    directory = tmp_path / "ksm"
    directory.mkdir()
    for name, text in FOUND.items():
        (directory / name).write_text(text)
    return directory


def values(settings: Path) -> dict[str, str]:
    return {name: (settings / name).read_text().strip() for name in FOUND}


def restored(settings: Path) -> bool:
    """The kernel shows the chosen advisor in brackets when it is written by its name."""
    return values(settings) == {name: text.strip() for name, text in FOUND.items()} | {
        "advisor_mode": "scan-time"
    }


@pytest.fixture
def run(runtime: Path, cache: Path) -> Iterator[Run]:
    with open_run(runtime) as opened:
        yield opened


def test_fast_while_it_runs_slow_when_eased_and_as_it_was_afterwards(
    run: Run, settings: Path
) -> None:
    with merging(run, settings) as merger:
        fast = values(settings)
        assert fast["run"] == "1" and fast["advisor_mode"] == "none"
        assert int(fast["pages_to_scan"]) > 1000
        assert merger.count("full_scans") == 5
        merger.ease()
        assert int(values(settings)["pages_to_scan"]) < int(fast["pages_to_scan"])
        merger.hurry()
        assert values(settings) == fast
    assert restored(settings) and not (run.directory / NOTE).exists()


def test_after_an_exception(run: Run, settings: Path) -> None:
    with pytest.raises(KeyboardInterrupt), merging(run, settings):
        raise KeyboardInterrupt
    assert restored(settings)


def test_a_kernel_that_cannot(run: Run, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="no samepage merging"), merging(run, tmp_path):
        pass


def test_after_sigkill_and_clean(runtime: Path, cache: Path, settings: Path) -> None:
    with start(MERGE_AND_HANG, str(settings)) as process:
        directory = Path(said(process))
        assert values(settings)["run"] == "1"
        assert "nothing of ours" in coppice("clean").stdout, "a run that lives keeps its settings"
        process.kill()
        process.wait()
    assert values(settings)["run"] == "1"
    dry = coppice("clean", "--dry-run")
    assert f"would remove settings {directory / NOTE}" in dry.stdout and not restored(settings)
    done = coppice("clean")
    assert done.returncode == 0, done.stderr
    assert restored(settings) and not directory.exists()


def test_a_second_run_does_not_take_the_firsts_settings_for_the_hosts(
    runtime: Path, cache: Path, settings: Path
) -> None:
    with start(MERGE_AND_HANG, str(settings)) as process:
        said(process)
        with open_run(runtime) as run, pytest.raises(Unsupported, match="has samepage merging"):
            with merging(run, settings):
                pass
        process.kill()
    with open_run(runtime):
        assert restored(settings), "a new run reclaims what a dead one left"


def test_what_a_dead_run_left_whose_directory_is_gone_is_known_by_its_numbers(
    runtime: Path, cache: Path, settings: Path
) -> None:
    with start(MERGE_AND_HANG, str(settings)) as process:
        directory = Path(said(process))
        assert not abandoned(settings), "it lives"
        process.kill()
        process.wait()
    shutil.rmtree(directory)
    assert abandoned(settings)
    reset(settings)
    assert values(settings)["run"] == "0" and not abandoned(settings)


@needs_merging
def test_the_kernel_merges_what_was_started_through_the_program_and_nothing_else(
    run: Run, cache: Path
) -> None:
    before = {name: (SETTINGS / name).read_text() for name in ("run", "pages_to_scan")}
    python = [sys.executable, "-c", EQUAL_PAGES]

    def hold(words: list[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout and process.stdout.readline() == b"ready\n"
        return process

    def merged(process: subprocess.Popen[bytes]) -> int:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        return int(text.partition("KSM:")[2].split()[0])

    with merging(run), hold([str(program(cache)), *python]) as ours, hold(python) as other:
        try:
            eventually(lambda: merged(ours) >= 7 << 10, 200)  # a busy host's ksmd is slow
            assert merged(other) == 0
            assert int(Path(f"/proc/{ours.pid}/personality").read_text(), 16) & 0x40000
        finally:
            ours.communicate(b"")
            other.communicate(b"")
    assert {name: (SETTINGS / name).read_text() for name in before} == before


def test_a_note_names_the_directory_of_the_settings(run: Run, settings: Path) -> None:
    with merging(run, settings):
        told = json.loads((run.directory / NOTE).read_text())
    assert told["settings"] == str(settings) and told["found"]["advisor_mode"] == "scan-time"
