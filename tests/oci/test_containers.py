"""Containers of every shape: start, identity, limits, and no leftovers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import GuestDied, ImageError, Unsupported, UsageError
from harness.guest import rootfs, shared_agent
from harness.guest.protocol import FrameKind, Tag, field
from harness.host import cgroups
from harness.host.identity import allocate
from harness.host.leftovers import find
from harness.host.run import Run
from harness.host.session import open_run
from harness.network.policy import Policy
from harness.paths import cache_directory
from harness.procedures.ladder import climb
from harness.sandbox.oci import OciSubstrate
from harness.sandbox.oci.config import Limits
from harness.sandbox.oci.plain import run_echo
from harness.sandbox.oci.substrate import OciTemplate
from harness.sandbox.protocol import Tier, load
from harness.sandbox.shared_kernel import SharedSandbox
from tests.host.processes import eventually

pytestmark = pytest.mark.skipif(
    not all(one.satisfied for one in load("oci-net-overlay").requirements()),
    reason="runc, root and overlayfs are needed: coppice doctor",
)
SHAPES = ("oci-raw", "oci-net", "oci-overlay", "oci-net-overlay")
Launch = Callable[..., SharedSandbox]


@pytest.fixture
def launch(run: Run) -> Iterator[Launch]:
    """Launches containers that are destroyed after the test."""
    with ExitStack() as stack:

        def one(
            substrate: OciSubstrate, tier: Tier = Tier.FULL, hostname: str = ""
        ) -> SharedSandbox:
            template = substrate.prepare(run, cache_directory(), tier)
            identity = allocate(run.leases, run.id)
            identity = replace(identity, hostname=hostname or identity.hostname)
            made = substrate.launch(run, template, tier, identity)
            stack.callback(made.destroy)
            return made

        yield one


def _traces(run: Run, id: str) -> list[str]:
    """What a container has on this host."""
    found = [str(path) for path in run.directory.rglob(f"*{id}*")]
    found += [
        line
        for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        if id in line
    ]
    return found + [str(one) for one in cgroups.find().groups(f"{cgroups.group_of(run)}/{id}")]


def _alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_climbs_the_ladder_and_leaves_nothing(name: str, run: Run) -> None:
    substrate = load(name)
    assert substrate.name == name
    template = substrate.prepare(run, cache_directory(), Tier.FULL)
    identity = allocate(run.leases, run.id)
    done = climb(lambda: substrate.launch(run, template, Tier.FULL, identity), "first-touch", 60)
    assert done.failure is None
    times = [done.rungs[rung] for rung in ("object", "first-reply", "first-exec", "first-touch")]
    assert times == sorted(times)
    assert done.sandbox
    hello = done.sandbox.agent.hello()
    assert (hello["hostname"], hello["machine_id"]) == (identity.hostname, identity.machine_id)
    addresses = (identity.mac, str(identity.address)) if "net" in name else ("", "")
    assert (hello["mac"], hello["address"]) == addresses
    assert _traces(run, identity.id)
    done.sandbox.destroy()
    done.sandbox.destroy()
    assert _traces(run, identity.id) == []
    assert not identity.lease.exists()


def test_writes_are_private_and_the_root_is_unchanged(launch: Launch, run: Run) -> None:
    for overlay in (True, False):
        first, second = (launch(OciSubstrate(overlay=overlay)) for _ in range(2))
        first.agent.write_file("/bin/mine", b"mine")
        first.agent.run(["/bin/rm", "/bin/cat"])
        assert second.agent.run(["/bin/ls", "/bin/mine"]).code != 0
        assert second.agent.run(["/bin/cat", "/etc/hostname"]).code == 0
    root = rootfs.busybox(cache_directory())
    assert rootfs.tree_digest(root.path) == root.sha256


def test_a_pooled_container_is_frozen_until_it_is_woken(launch: Launch, run: Run) -> None:
    frozen = launch(OciSubstrate(), Tier.PREWARM_POOL)
    busy = launch(OciSubstrate())
    busy.agent.send(FrameKind.EXEC, field(Tag.ARG, "/bin/sh") + field(Tag.ARG, "-c") + field(
        Tag.ARG, "while :; do echo x >>/tmp/log; done"))  # fmt: skip
    eventually(lambda: busy.agent.run(["/bin/wc", "-c", "/tmp/log"]).stdout[:1].isdigit())
    busy.stop()
    path = next((run.directory / "oci" / busy.id).rglob("log"))
    before = path.stat().st_size
    time.sleep(0.2)
    assert path.stat().st_size == before
    busy.awaken(60)
    eventually(lambda: path.stat().st_size > before)
    began = time.perf_counter()
    assert frozen.awaken(60) > began
    assert frozen.resumed_at() > began
    assert frozen.first_exec("word").stdout == b"word\n"


def test_limits_bound_memory_and_processes(launch: Launch) -> None:
    if cgroups.find().unlimited:
        pytest.skip(f"this host cannot limit {', '.join(cgroups.find().unlimited)}")
    small = launch(OciSubstrate(limits=Limits(memory=32 << 20, pids=16, cpus=0.5)))
    eats = "x=x; while :; do x=$x$x; done"
    assert small.agent.run(["/bin/sh", "-c", eats], timeout_s=60).signal == signal.SIGKILL
    forks = "for i in $(seq 40); do sleep 30 & done"
    done = small.agent.run(["/bin/sh", "-c", forks], timeout_s=60)
    assert done.code or b"fork" in done.stderr
    small.awaken(60)


def test_neighbours_are_isolated_until_a_policy_allows_traffic(run: Run, launch: Launch) -> None:
    substrate = OciSubstrate(network=True)
    server, client = launch(substrate), launch(substrate)
    serve = "while :; do echo hello | busybox nc -l -p 8080 -w 5; done"
    words = ("/bin/sh", "-c", serve)
    server.agent.send(FrameKind.EXEC, b"".join(field(Tag.ARG, word) for word in words))
    ask = f"busybox nc -w 1 {server.identity.address} 8080 </dev/null"
    assert client.agent.run(["/bin/sh", "-c", ask]).stdout == b""
    net = substrate.net(run)
    net.apply(client.id, Policy.of([f"{server.identity.address} tcp/8080"]))
    eventually(lambda: client.agent.run(["/bin/sh", "-c", ask]).stdout == b"hello\n")


def test_concurrent_launches_on_one_network(launch: Launch) -> None:
    with ThreadPoolExecutor(8) as workers:
        made = list(workers.map(lambda _: launch(OciSubstrate(network=True)), range(16)))
    hellos = [one.agent.hello() for one in made]
    assert [one["address"] for one in hellos] == [str(one.identity.address) for one in made]


def test_a_debian_with_python_runs_python(launch: Launch) -> None:
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not installed: bin/mise run setup")
    sandbox = launch(OciSubstrate(root=rootfs.debian))
    code = "import json, os; print(json.dumps([6 * 7, os.getuid()]))"
    assert sandbox.agent.run(["python3", "-c", code], timeout_s=60).stdout == b"[42, 0]\n"
    sandbox.agent.write_file("/usr/lib/python3/dist-packages/mine.py", b"x = 1")
    assert sandbox.agent.run(["python3", "-c", "import mine"], timeout_s=60).code == 0


def test_plain_runc_runs_the_same_bundle(run: Run) -> None:
    substrate = OciSubstrate()
    template = substrate.prepare(run, cache_directory(), Tier.FULL)
    assert 0 < run_echo(run, substrate, template, "word") < 60


# Bad input.


def test_a_missing_binary_is_reported(run: Run, tmp_path: Path) -> None:
    substrate = OciSubstrate()
    template = substrate.prepare(run, cache_directory(), Tier.FULL)
    lower = tmp_path / "lower"
    shutil.copytree(template.lower, lower, symlinks=True)
    (lower / ".agent").unlink()
    identity = allocate(run.leases, run.id)
    with pytest.raises(GuestDied, match=r"did not start.*\.agent.*no such file"):
        substrate.launch(run, replace(template, lower=lower), Tier.FULL, identity)
    assert _traces(run, identity.id) == []
    assert not identity.lease.exists()


def test_a_root_that_links_to_the_hosts_is_refused(run: Run, tmp_path: Path) -> None:
    link = tmp_path / "root"
    link.symlink_to("/")
    substrate = OciSubstrate(root=lambda cache: rootfs.from_path(link))
    with pytest.raises(ImageError, match="is a link to /"):
        substrate.prepare(run, cache_directory(), Tier.FULL)


@pytest.fixture
def strange() -> Iterator[Path]:
    """A runtime directory with separators in its name, open to all users."""
    directory = Path(f"/run/coppice test, a:b\nc\\d {os.getpid()}")
    directory.mkdir(mode=0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize("overlay", [True, False])
def test_paths_with_spaces_commas_and_newlines_work(strange: Path, overlay: bool) -> None:
    with open_run(strange) as run:
        substrate = OciSubstrate(overlay=overlay)
        template = substrate.prepare(run, cache_directory(), Tier.FULL)
        sandbox = substrate.launch(run, template, Tier.FULL, allocate(run.leases, run.id))
        try:
            sandbox.awaken(30)
            assert sandbox.first_exec("word").stdout == b"word\n"
        finally:
            sandbox.destroy()
    assert "coppice test" not in Path("/proc/self/mounts").read_text(encoding="utf-8").replace(
        "\\040", " "
    )


def test_a_hostname_of_300_characters_is_refused(run: Run, launch: Launch) -> None:
    before = sorted((run.directory / "oci").iterdir()) if (run.directory / "oci").exists() else []
    with pytest.raises(UsageError, match="this one has 300"):
        launch(OciSubstrate(), hostname="h" * 300)
    assert sorted((run.directory / "oci").iterdir()) == before


def test_missing_runc_is_reported_with_the_package(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for program in ("musl-gcc", "busybox", "cp"):
        (tmp_path / program).symlink_to(shutil.which(program) or "/nowhere")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="apt-get install runc"):
        OciSubstrate().prepare(run, cache_directory(), Tier.FULL)


def test_a_runc_that_hangs_on_delete_is_killed(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A wrapper of runc that hangs on `delete`."""
    fake = tmp_path / "runc"
    fake.write_text(
        '#!/bin/sh\nfor word; do [ "$word" = delete ] && exec sleep 600; done\n'
        f'exec {shutil.which("runc")} "$@"\n',
        encoding="utf-8",
    )
    fake.chmod(0o755)
    monkeypatch.setattr("harness.sandbox.oci.runc.DELETE_LIMIT_S", 0.3)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    substrate = OciSubstrate()
    template = substrate.prepare(run, cache_directory(), Tier.FULL)
    assert isinstance(template, OciTemplate)
    sandbox = substrate.launch(run, template, Tier.FULL, allocate(run.leases, run.id))
    pid = sandbox.pid
    sandbox.destroy()
    assert not _alive(pid)
    assert _traces(run, sandbox.id) == []


FROZEN = """
import sys, time
from pathlib import Path
from harness.host.session import open_run
from harness.paths import cache_directory
from harness.host.identity import allocate
from harness.sandbox.oci import OciSubstrate
from harness.sandbox.protocol import Tier
with open_run() as run:
    substrate = OciSubstrate(network=True)
    template = substrate.prepare(run, cache_directory(), Tier.FULL)
    for tier in (Tier.FULL, Tier.PREWARM_POOL):
        made = substrate.launch(run, template, tier, allocate(run.leases, run.id))
        print(made.pid, flush=True)
    print(run.directory, flush=True)
    time.sleep(600)
"""


def test_frozen_containers_of_a_killed_run_are_removed(
    strange: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPPICE_RUNTIME", str(strange))
    holder = subprocess.Popen(
        [sys.executable, "-c", FROZEN], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert holder.stdout
    with holder.stdout:
        pids = [int(holder.stdout.readline()) for _ in range(2)]
        holder.kill()
        holder.wait()
    assert _alive(pids[1])  # it is frozen
    assert {one.what for one in find(strange)} >= {"cgroup", "mount", "directory"}
    with open_run(strange):  # the next run removes leftovers
        pass
    assert not any(map(_alive, pids))
    assert find(strange) == []
    assert not cgroups.find().groups(cgroups.parent_of(strange))


def test_the_shared_agent_sets_no_hostname_and_no_clock(run: Run) -> None:
    """In a bare process, where only the program itself protects the host's name and clock."""
    substrate = load("process")
    template = substrate.prepare(run, cache_directory(), Tier.FULL)
    sandbox = substrate.launch(run, template, Tier.FULL, allocate(run.leases, run.id))
    try:
        name, at = os.uname().nodename, time.time()
        for request in (
            field(Tag.HOSTNAME, "taken"),
            field(Tag.WALL_NS, 10**18),
            field(Tag.MACHINE_ID, "0" * 32),
            field(Tag.MAC, bytes(6)),
            field(Tag.ADDRESS, "10.0.0.1/8"),
            field(Tag.ENTROPY, bytes(64)),
        ):
            with pytest.raises(Exception, match="Operation not permitted"):
                sandbox.agent.call(FrameKind.IDENTITY, request)
        sandbox.agent.ping(wall_ns=10**18)
        assert os.uname().nodename == name
        assert abs(time.time() - at) < 300
    finally:
        sandbox.destroy()
    program = shared_agent.build(cache_directory()).read_bytes()
    assert b"/dev/mem" not in program
