"""A checkpoint outlives everything that made it, and the host's memory of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from harness.host.run import VARIABLE, Run, cache_folder, open_run
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import QemuSubstrate
from harness.sandbox.qemu.checkpoint import MEMORY, name_of
from harness.sandbox.qemu.substrate import SEAL
from tests.guests import AWAKE_S, borrowed_cache, launched

# The first life: makes the checkpoint, restores a guest of it, and waits to be killed.
MAKER = """
import sys
from harness.host.run import cache_folder, open_run
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import QemuSubstrate
from tests.guests import launched

with open_run() as run, launched(run, Tier.DURABLE_POOL) as guest:
    guest.awaken(60)
    guest.agent.write_file("/run/after", b"written after the checkpoint")
    print(run.folder, guest.vmm.process.pid, flush=True)
    sys.stdin.read()
"""


def of_run(folder: str) -> list[psutil.Process]:
    """The processes that carry a run's folder in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(VARIABLE) == folder:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def cached_bytes(path: Path) -> int:
    """How much of a file the host holds in its page cache, by the program fincore."""
    done = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


def test_a_sealed_guest_survives_its_makers_and_the_page_cache(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("emptying the host's page cache needs root: run it again with sudo")
    QemuSubstrate().prepare(run, cache_folder(), Tier.FULL)
    cache = borrowed_cache(tmp_path / "cache", "kernels", "images", "accelerator")
    monkeypatch.setenv("COPPICE_CACHE", str(cache))
    monkeypatch.setenv("COPPICE_RUNTIME", str(tmp_path / "runtime"))
    root = Path(__file__).parents[2]
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKER],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert maker.stdin
        assert maker.stdout
        folder, pid = maker.stdout.readline().split()
    finally:
        maker.kill()
        maker.communicate()
    theirs = of_run(folder)
    assert int(pid) in [process.pid for process in theirs]
    for process in theirs:
        process.kill()
    psutil.wait_procs(theirs, 10)
    assert of_run(folder) == []

    (sealed,) = (cache / "checkpoints").iterdir()
    memory = sealed / MEMORY
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("1")
    assert cached_bytes(memory) < memory.stat().st_size // 10

    with open_run() as second:
        assert not Path(folder).exists()  # the dead run was reclaimed
        made = memory.stat().st_mtime_ns
        with launched(second, Tier.DURABLE_POOL) as guest:
            guest.awaken(AWAKE_S)
            assert guest.agent.read_file(SEAL) == b"written before the checkpoint"
            assert guest.agent.run(("ls", "/run/after")).code == 1
            assert guest.first_exec("alive").stdout == b"alive\n"
            assert guest._checkpoint
            assert sealed.name == name_of(guest._checkpoint.built_from)
        assert memory.stat().st_mtime_ns == made  # restored, not made anew


def test_what_a_restored_guest_writes_does_not_reach_the_checkpoint(run: Run) -> None:
    template = QemuSubstrate().prepare(run, cache_folder(), Tier.DURABLE_POOL)
    assert template.checkpoint
    before = template.checkpoint.memory.stat().st_mtime_ns
    with launched(run, Tier.DURABLE_POOL, template) as guest:
        guest.awaken(AWAKE_S)
        guest.agent.write_file(SEAL, b"changed by one guest")
        guest.touch(16)
    with launched(run, Tier.DURABLE_POOL, template) as guest:
        guest.awaken(AWAKE_S)
        assert guest.agent.read_file(SEAL) == b"written before the checkpoint"
    assert template.checkpoint.memory.stat().st_mtime_ns == before
    QemuSubstrate().prepare(run, cache_folder(), Tier.DURABLE_POOL)  # its digests still fit
