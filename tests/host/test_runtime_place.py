"""What the doctor tries, on hosts that are made unfit in namespaces of their own."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import Unsupported
from harness.host import file_system
from harness.host.requirement import Requirement
from harness.network import requirements as network
from harness.network.namespace import in_scratch_namespace
from harness.network.netlink import Netlink, NetlinkError

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not sys.platform.startswith("linux"), reason="mount namespaces need root"
)
CONTAINER = """
from harness.host.identity import allocate
from harness.host.session import open_run
from harness.paths import cache_directory
from harness.sandbox.protocol import Tier, load
substrate = load("{name}")
with open_run() as run:
    template = substrate.prepare(run, cache_directory(), Tier.FULL)
    sandbox = substrate.launch(run, template, Tier.FULL, allocate(run.leases, run.id))
    try:
        sandbox.awaken(60)
        print(sandbox.first_exec("one"))
    finally:
        sandbox.destroy()
"""
NEEDS = """
import dataclasses, json
from harness.{module} import requirements
print(json.dumps([dataclasses.asdict(need) for need in requirements({arguments})]))
"""


def inside(mount: str, program: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program of Python in a mount namespace after a command of the shell."""
    environment = {name: value for name, value in os.environ.items() if name != "COPPICE_RUNTIME"}
    return subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-ec", f'{mount}; exec "$@"', "sh",
         sys.executable, "-c", program],
        env=environment | more, capture_output=True, text=True, timeout=120, encoding="utf-8",
    )  # fmt: skip


def needs(mount: str, module: str, arguments: str = "", **more: str) -> dict[str, Requirement]:
    done = inside(mount, NEEDS.format(module=module, arguments=arguments), **more)
    assert done.returncode == 0, done.stderr
    return {need["what"]: Requirement(**need) for need in json.loads(done.stdout)}


OCI = ("sandbox.oci.requirements", "overlay=True, network=False")


@pytest.mark.parametrize("name", ["oci-raw", "oci-net"])
def test_containers_run_where_run_is_mounted_noexec(name: str) -> None:
    noexec = "mount -t tmpfs -o noexec,nosuid,nodev none /run"
    found = needs(noexec, *OCI)["runtime directory"]
    assert found.satisfied and "tmpfs" in found.detail and "executable" in found.detail
    lacking = [
        need
        for need in needs(noexec, OCI[0], "overlay=False, network=True").values()
        if not need.satisfied
    ]
    if lacking:
        pytest.skip(f"{lacking[0].what}: {lacking[0].detail}")
    listing = "import os; print(os.listdir('/run/coppice'), open('/proc/mounts').read())"
    done = inside(noexec, CONTAINER.format(name=name) + listing)
    assert done.returncode == 0, done.stderr
    # Other runs have mounts below the /run that is covered.
    own = done.stdout.rpartition(" /run tmpfs ")[2]
    assert "['leases']" in done.stdout and own and "/run/coppice/" not in own


def test_a_noexec_directory_that_stays_so_has_a_remedy() -> None:
    """As in a container: its mounts cannot be changed."""
    refused = (
        "from harness.host import mounts\n"
        "def refuse(*_): raise PermissionError(1, 'Operation not permitted')\n"
        "mounts.bind_executable = refuse\n"
    )
    noexec = "mount -t tmpfs -o noexec none /run"
    done = inside(noexec, refused + NEEDS.format(module=OCI[0], arguments=OCI[1]))
    (found,) = (n for n in json.loads(done.stdout) if n["what"] == "runtime directory")
    assert not found["satisfied"]
    assert "noexec" in found["detail"] and "COPPICE_RUNTIME" in found["remedy"]


def test_a_small_run_is_reported_with_its_room() -> None:
    found = needs("mount -t tmpfs -o size=4m none /run", *OCI)["runtime directory"]
    assert not found.satisfied and "4 MiB free" in found.detail
    assert "COPPICE_RUNTIME" in str(found.remedy)


def test_the_overlay_is_tried_where_containers_will_have_theirs(tmp_path: Path) -> None:
    """The kernel knows overlayfs, and refuses it on a file system that is read-only."""
    place = tmp_path / "place"
    place.mkdir()
    read_only = f"mount -t tmpfs -o ro none {place}"
    found = needs(read_only, *OCI, COPPICE_RUNTIME=str(place / "r"))["overlayfs"]
    assert not found.satisfied and str(place) in found.detail


def test_settings_of_the_network_are_written_where_proc_sys_is_read_only() -> None:
    """net.core.somaxconn stands for br_netfilter's settings, which not every kernel has."""
    read_only = "mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys"
    program = (
        "from harness.network.settings import set_net, NET\n"
        "set_net('core/somaxconn', '77'); print((NET / 'core/somaxconn').read_text())\n"
    )
    done = inside(read_only, program)
    assert (done.returncode, done.stdout.strip()) == (0, "77"), done.stderr
    refused = (
        "from harness.host import mounts\n"
        "def refuse(*_): raise PermissionError(1, 'Operation not permitted')\n"
        "mounts.mount = refuse\n"
    )
    done = inside(read_only, refused + program)
    assert "Unsupported" in done.stderr and "remount,rw /proc/sys" in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        NetlinkError(errno.EAFNOSUPPORT, ""),
        NetlinkError(errno.EACCES, "IPv6 is disabled on this device"),
    ],
)
def test_without_ipv6_the_network_is_unsupported(
    error: NetlinkError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel booted with ipv6.disable=1 refuses attributes of that family."""
    send = Netlink.send

    def refusing(self: Netlink, data: bytes) -> None:
        if b"\xfd\x77\xc0\xbb" in data:  # an address of the sandboxes' IPv6 network
            raise error
        send(self, data)

    monkeypatch.setattr(Netlink, "send", refusing)
    lacking = {need.what: need for need in network.requirements() if not need.satisfied}
    assert [*lacking] == ["ports with IPv4 and IPv6"]
    assert "ipv6.disable" in str(lacking["ports with IPv4 and IPv6"].remedy)
    with pytest.raises(Unsupported, match="IPv6 is disabled"):
        in_scratch_namespace(network._ports)


def test_a_file_system_is_described(tmp_path: Path) -> None:
    found = file_system.of(tmp_path / "not" / "there")
    assert found.free <= found.size and found.kind != "unknown"
    assert file_system.of(Path("/proc")).kind == "proc"
    assert file_system.unescaped("/a\\040b\\134c") == "/a b\\c"
