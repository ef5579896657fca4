"""Each reference substrate runs a real sandbox up the ladder, and leaves nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import Unsupported, UsageError
from harness.guest import rootfs
from harness.host.identity import allocate
from harness.host.run import Run
from harness.host.session import open_run
from harness.paths import cache_directory
from harness.procedures.columns import Column, Stand, kernel_of, processes_of
from harness.procedures.ladder import climb
from harness.sandbox.protocol import Tier, load
from harness.sandbox.reference import docker, vm

NAMES = ("process", "bwrap", "docker", "gvisor")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="these substrates are started by root")


@needs_root
@pytest.mark.parametrize(
    ("name", "tier"),
    [*((name, Tier.FULL) for name in NAMES), ("gvisor", Tier.DURABLE_POOL)],
)
def test_the_ladder_leaves_nothing(name: str, tier: Tier, run: Run) -> None:
    substrate = load(name)
    template = substrate.prepare(run, cache_directory(), tier)  # skips where a program is missing
    before = processes_of(run)
    made = climb(
        lambda: substrate.launch(run, template, tier, allocate(run.leases, run.id)),
        "first-touch", 120,
    )  # fmt: skip
    assert made.failure is None
    assert made.sandbox
    try:
        hello = made.sandbox.agent.hello()
        assert kernel_of(hello)[0] is substrate.own_kernel
        if name != "process" and not tier.restores:  # a restored sandbox keeps its hostname
            assert hello["hostname"] == made.sandbox.identity.hostname
        if tier.restores:
            assert made.sandbox.agent.run(["/bin/cat", "/run/sealed"]).code == 0
    finally:
        made.sandbox.destroy()
    assert processes_of(run) <= before | _daemons(run)
    assert not [
        path
        for path in run.directory.rglob(f"*{made.sandbox.id}*")
        if not any(part.startswith(docker.DIRECTORY) for part in path.parts)
    ]


@needs_root
@pytest.mark.parametrize(
    "column", [Column("process", Tier.FULL), Column("oci-overlay", Tier.PREWARM_POOL)], ids=str
)
def test_a_visit_ends_with_nothing_running(column: Column, run: Run) -> None:
    with ExitStack() as stack:
        stand = Stand(run, cache_directory(), column, stack, 2)
        before = processes_of(run)
        climbs = stand.visit(2, "first-exec")
        assert [one.failure for one in climbs] == [None, None]
        assert processes_of(run) <= before


def _daemons(run: Run) -> set[int]:
    """Processes that docker runs for all containers of a run."""
    names = ("dockerd", "containerd")
    return {
        pid
        for pid in processes_of(run)
        if Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() in names
    }


@pytest.mark.parametrize("name", ["bwrap", "docker", "gvisor", "vm"])
def test_a_missing_program_is_reported_with_its_package(
    name: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for program in ("musl-gcc", "busybox"):
        (tmp_path / program).symlink_to(shutil.which(program) or "/nowhere")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(Unsupported, match="apt-get install"):
        load(name).prepare(run, cache_directory(), Tier.FULL)


def test_other_programs_named_docker_are_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in = tmp_path / "docker"
    stand_in.write_text("#!/bin/sh\necho a stand-in\n", encoding="utf-8")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert docker.client() is None
    stand_in.write_text("#!/bin/sh\necho Docker version 28.2.2, build x\n", encoding="utf-8")
    assert docker.client() == str(stand_in)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("docker", "dockerd"):
        (other / name).write_text(
            "#!/bin/sh\necho Docker version 20.10.24+dfsg1, build y\n", encoding="utf-8"
        )
        (other / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{other}")
    assert docker.client() == str(other / "docker")


@needs_root
def test_a_vm_boots_to_its_login(run: Run) -> None:
    """Only if its disk exists: building it takes minutes, as does booting without KVM."""
    if not list((cache_directory() / "disks").glob("*/disk")):
        pytest.skip("its disk takes minutes: bin/mise run bench:compare -- --columns vm-full")
    assert rootfs.debian(cache_directory(), vm.PACKAGES).path.exists()
    if os.environ.get("COPPICE_SLOW") is None:
        pytest.skip("a boot takes most of a minute under emulation: COPPICE_SLOW=1 runs it")
    substrate = load("vm")
    template = substrate.prepare(run, cache_directory(), Tier.FULL)
    sandbox = substrate.launch(run, template, Tier.FULL, allocate(run.leases, run.id))
    try:
        sandbox.awaken(280)
        console = next(run.directory.glob("vm-*.console")).read_text(
            errors="replace", encoding="utf-8"
        )
        assert "login:" in console
        assert kernel_of(sandbox.agent.hello())[0]
        assert sandbox.agent.run(["/bin/cat", "/proc/1/comm"]).stdout == b"systemd\n"
    finally:
        sandbox.destroy()


@pytest.fixture
def strange() -> Iterator[Path]:
    """A runtime directory with separators in its name, open to all users."""
    directory = Path(f"/run/coppice test, a:b\nc\\d {os.getpid()}")
    directory.mkdir(mode=0o755)
    yield directory
    shutil.rmtree(directory)


@needs_root
@pytest.mark.parametrize("name", ["bwrap", "docker", "gvisor"])
def test_a_hostname_of_300_characters_is_refused(name: str, run: Run) -> None:
    substrate = load(name)
    template = substrate.prepare(run, cache_directory(), Tier.FULL)
    identity = replace(allocate(run.leases, run.id), hostname="h" * 300)
    with pytest.raises(UsageError, match="this one has 300"):
        substrate.launch(run, template, Tier.FULL, identity)
    assert list(run.directory.glob(f"*{identity.id}*")) == []
    assert not identity.lease.exists()


@needs_root
@pytest.mark.parametrize("name", ["process", "bwrap", "gvisor"])
def test_paths_with_spaces_commas_and_newlines_work(name: str, strange: Path) -> None:
    substrate = load(name)
    with open_run(strange) as run:
        template = substrate.prepare(run, cache_directory(), Tier.FULL)
        sandbox = substrate.launch(run, template, Tier.FULL, allocate(run.leases, run.id))
        try:
            sandbox.awaken(30)
            assert sandbox.first_exec("word").stdout == b"word\n"
        finally:
            sandbox.destroy()
        assert processes_of(run) == set()


@needs_root
def test_unsuitable_directories_for_docker_are_refused_with_a_hint(strange: Path) -> None:
    with (
        open_run(strange) as run,
        pytest.raises(Unsupported, match="its path has a comma"),
    ):
        load("docker").prepare(run, cache_directory(), Tier.FULL)


def test_a_docker_that_hangs_on_removal_is_killed(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A fake client that hangs."""
    fake = tmp_path / "docker"
    fake.write_text("#!/bin/sh\nexec sleep 600\n", encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setattr(docker, "REMOVE_LIMIT_S", 0.2)
    template = docker.DockerTemplate(
        rootfs.RootFs("made-up", tmp_path, "0" * 64, {}), tmp_path, docker=[str(fake)]
    )
    before, began = processes_of(run), time.monotonic()
    docker._remove(run, template, "coppice-made-up")
    assert time.monotonic() - began < 120
    assert processes_of(run) <= before
