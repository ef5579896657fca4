from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import pytest

from harness.errors import NotEnoughMemory, SandboxGone, UsageError
from harness.host import identity
from harness.host.identity import Identity, allocate
from harness.host.leftovers import find
from harness.host.run import Run
from harness.network import links
from harness.network.cubenet import BRIDGE, Cubenet, open_cubenet
from harness.network.links import LOOPBACK, MOST_PORTS, Links
from harness.network.namespace import inside, namespace
from harness.network.policy import Policy
from harness.network.uplink import THERE
from harness.procedures.namespace_endpoint import endpoint
from harness.procedures.peers import namespace_peer
from tests.host.processes import coppice, next_line
from tests.network.packets import patiently

ROOT = Path(__file__).parents[2]
IN_A_NETWORK = """
import time
from harness.host.session import open_run
from harness.network.cubenet import open_cubenet
from harness.procedures.namespace_endpoint import endpoint
from harness.host.identity import allocate

with open_run() as run, open_cubenet(run) as net, endpoint(run, net) as one:
    net.attach_tap(allocate(run.leases, run.id))
    print(run.directory, flush=True)
    time.sleep(600)
"""


def interfaces(where: Path) -> set[str]:
    with inside(where):
        return {name for _, name in socket.if_nameindex()}


@pytest.fixture
def own(run: Run) -> Iterator[Cubenet]:
    with open_cubenet(run) as opened:
        yield opened


@pytest.fixture
def identities(run: Run) -> Iterator[list[Identity]]:
    """One more than a bridge has ports."""
    found = [allocate(run.leases, run.id) for _ in range(MOST_PORTS + 1)]
    yield found
    for one in found:
        one.release()


def test_a_full_bridge_refuses_another_tap(own: Cubenet, identities: list[Identity]) -> None:
    ports = [own.attach_tap(one) for one in identities[:-1]]
    assert len({one.index for one in ports}) == MOST_PORTS
    with pytest.raises(NotEnoughMemory, match="all 1023 ports"):
        own.attach_tap(identities[-1])
    own.detach(*(one.id for one in identities[:-1]))
    assert interfaces(own.namespace) == {"lo", BRIDGE}
    own.attach_tap(identities[-1])


def test_exhausted_address_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "NETWORK", IPv4Network("10.77.0.0/29"))
    for _ in range(5):
        allocate(tmp_path, "run")
    with pytest.raises(NotEnoughMemory, match="all 5 addresses"):
        allocate(tmp_path, "run")


def test_detaching_after_the_namespace_is_gone(run: Run, own: Cubenet) -> None:
    one = allocate(run.leases, run.id)
    with namespace(run.directory, "short") as path:
        port = own.attach_netns(one, path)
        assert port.name in interfaces(own.namespace)
    own.detach(one.id)
    with pytest.raises(SandboxGone):
        own.detach(one.id)
    with pytest.raises(SandboxGone):
        own.apply(one.id, Policy())
    one.release()


def test_a_failed_attachment_leaves_nothing(run: Run, own: Cubenet) -> None:
    one = allocate(run.leases, run.id)
    with namespace(run.directory, "twice") as path:
        own.attach_netns(one, path)
        other = allocate(run.leases, run.id)
        before = interfaces(own.namespace)
        with pytest.raises(OSError, match="exist"):
            own.attach_netns(other, path)  # the namespace has a NIC of that name already
        assert interfaces(own.namespace) == before
        own.detach(one.id)
        own.attach_netns(other, path)
    one.release()
    other.release()


def test_an_identity_can_be_attached_once(run: Run, own: Cubenet) -> None:
    with (
        endpoint(run, own, Policy.of(["192.0.2.1"])) as one,
        namespace(run.directory, "two") as path,
    ):
        before = interfaces(own.namespace)
        with pytest.raises(UsageError, match="attached already"):
            own.attach_netns(one.identity, path)
        with pytest.raises(UsageError, match="attached already"):
            own.attach_tap(one.identity)
        assert interfaces(own.namespace) == before and interfaces(path) == {"lo"}
        own.apply(one.id, Policy())  # the first attachment is unchanged


def test_attaching_by_pid(run: Run, own: Cubenet) -> None:
    with namespace(run.directory, "process") as path:
        with inside(path):
            process = subprocess.Popen(["sleep", "600"], env=dict(run.environment))
        try:
            one = allocate(run.leases, run.id)
            own.attach_netns(one, process.pid)
            assert interfaces(path) == {"lo", "eth0"}
            one.release()
        finally:
            process.kill()
            process.wait()


def test_a_network_ends_with_its_block(run: Run) -> None:
    before = set(run.directory.iterdir())
    with open_cubenet(run) as opened, endpoint(run, opened):
        path = opened.namespace
        opened.attach_tap(allocate(run.leases, run.id))
        assert path.is_file() and str(path) in Path("/proc/self/mounts").read_text(encoding="utf-8")
    assert set(run.directory.iterdir()) == before
    assert str(path) not in Path("/proc/self/mounts").read_text(encoding="utf-8")


def test_clean_removes_the_networks_of_a_killed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPPICE_RUNTIME", str(tmp_path / "runtime"))
    with subprocess.Popen(
        [sys.executable, "-c", IN_A_NETWORK],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        directory = next_line(process)
        os.kill(process.pid, signal.SIGKILL)
    mounts = [one for one in find(tmp_path / "runtime") if one.what == "mount"]
    assert {Path(one.name).name.partition("-")[0] for one in mounts} == {BRIDGE, "endpoint"}
    assert all(one.run_id == Path(directory).name for one in mounts)
    done = coppice("clean")
    assert done.returncode == 0 and f"removed mount {mounts[0].name}" in done.stdout, done.stderr
    assert directory not in Path("/proc/self/mounts").read_text(encoding="utf-8")
    assert not Path(directory).exists()


OUTSIDE, OUTSIDE6 = "203.0.114.5", "2001:db9::5"


def test_uplink_follows_policy_and_translates_addresses(run: Run) -> None:
    """A namespace stands for the outside: nothing leaves this machine."""
    with namespace(run.directory, "outside") as outside:
        with inside(outside):
            there = Links()
            there.send(links.up(LOOPBACK))
            there.send(links.address(LOOPBACK, IPv4Address(OUTSIDE), 32))
            there.send(links.address(LOOPBACK, IPv6Address(OUTSIDE6), 128))
            there.close()
            server = socket.create_server(("", 7007))
        with ExitStack() as stack:
            stack.enter_context(server)
            net = stack.enter_context(open_cubenet(run, outside))
            one = stack.enter_context(endpoint(run, net))
            peer_inside = stack.enter_context(namespace_peer(run, one.namespace, one.address))

            def reaches(where: str) -> bool:
                process = peer_inside.start(["busybox", "ping", "-c1", "-W1", where])
                return process.wait() == 0

            def reaches_eventually(where: str) -> bool:
                """Retried: on a busy machine the first request may be lost."""
                return patiently(lambda: reaches(where))

            assert not reaches(OUTSIDE) and not reaches(OUTSIDE6)
            net.apply(one.id, Policy(default="allow"))
            assert reaches_eventually(OUTSIDE) and reaches_eventually(OUTSIDE6)
            assert not reaches(str(THERE[0].ip)), "private, and not allowed"
            with inside(one.namespace):
                line = stack.enter_context(socket.create_connection((OUTSIDE, 7007), 60))
            peer, seen_as = server.accept()
            assert seen_as[0] == "169.254.77.1"
            net.apply(one.id, Policy.of(deny=[f"{OUTSIDE}/32"], default="allow"))
            assert not reaches(OUTSIDE) and reaches_eventually(OUTSIDE6)
            peer.sendall(b"still there?")
            line.settimeout(0.2)
            with pytest.raises(TimeoutError):
                line.recv(64)
            peer.close()
            with inside(outside):
                back = socket.socket()
                back.settimeout(0.3)
                with pytest.raises(OSError):
                    back.connect((one.address, 7007))
                back.close()
