"""From inside a sandbox: what of the host and of a neighbour can be seen, and touched.

Each test tries. Where the kernel is the host's the attempt is refused; where it is a guest's own
some succeed, inside, and what they aim at on the host stays as it was.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path

import pytest

from tests.isolation.conftest import Cell, Host

REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS)
GONE = (errno.ESRCH, errno.ENOENT, errno.ECONNREFUSED)


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "RSD"


def test_no_process_of_the_host_is_seen(cell: Cell, host: Host) -> None:
    seen = cell.shell("cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'")
    assert "attack" not in seen
    assert host.word not in seen
    pids = cell.shell("ls /proc | grep '^[0-9]'").split()
    if cell.shares_kernel:
        assert len(pids) < 10
        assert "1" in pids


def test_no_process_of_the_host_can_be_signalled_traced_or_read(cell: Cell, host: Host) -> None:
    for name in ("signal_process", "trace_process", "read_process"):
        assert cell.attack(name, host.pid) in (*GONE, *REFUSED), name
    assert cell.attack("enter_namespace", host.pid) in (*GONE, *REFUSED)
    assert _alive(host.pid)


def test_a_signal_to_all_reaches_nobody_else(cell: Cell, host: Host) -> None:
    cell.sandbox.agent.run(["/bin/sh", "-c", "kill -9 -1"])
    assert _alive(host.pid)
    cell.neighbour.awaken(30)
    cell.sandbox.awaken(30)


def test_no_file_of_the_host_or_a_neighbour_is_there(cell: Cell, host: Host) -> None:
    assert cell.attack("open_file", host.file) in (*GONE, *REFUSED)
    cell.neighbour.agent.write_file("/tmp/own", b"the neighbour's")
    assert cell.attack("open_file", "/tmp/own") == errno.ENOENT
    for path in ("/proc/1/root", "/proc/self/root", "/proc/1/cwd/../../.."):
        assert cell.attack("open_file", f"{path}{host.file}") in (*GONE, *REFUSED)


def test_a_link_that_leads_out_leads_nowhere(cell: Cell, host: Host) -> None:
    cell.shell(f"ln -sf ../../../../../../../..{host.file} /tmp/link")
    assert cell.attack("open_file", "/tmp/link") in (*GONE, *REFUSED)


def test_what_is_mounted_names_nothing_of_the_host(cell: Cell, host: Host) -> None:
    mounts = cell.shell("cat /proc/self/mountinfo")
    assert mounts
    here = os.uname().nodename + "."
    for word in (host.word, str(host.file.parent), here, "/home", f"{Path.home()}/"):
        if word != ".":
            assert word not in mounts, word


def test_no_device_of_the_host_can_be_made_or_opened(cell: Cell) -> None:
    disks = [disk / "dev" for disk in Path("/sys/block").iterdir()]
    majors = {int(path.read_text().partition(":")[0]) for path in disks if path.exists()}
    for major in majors or {8}:
        assert cell.attack("make_device", major) in (*REFUSED, errno.ENXIO, errno.ENOENT)
    if cell.shares_kernel:
        assert cell.attack("make_memory_device") in REFUSED
        for path in ("/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/net/tun", "/dev/fuse", "/dev/vda"):
            assert cell.attack("open_file", path) in (*GONE, *REFUSED), path


def test_no_handle_opens_a_file_system_from_below(cell: Cell) -> None:
    result = cell.attack("open_by_handle")
    assert result in (*REFUSED, errno.EOPNOTSUPP, errno.ESTALE, errno.EINVAL)


@pytest.mark.parametrize(
    "attack",
    ["mount_tmpfs", "mount_proc", "mount_cgroup", "remount_proc", "unmount_mask",
     "new_user_namespace", "new_cgroup_namespace"],
)  # fmt: skip
def test_nothing_is_mounted_and_no_namespace_made(cell: Cell, attack: str) -> None:
    before = Path("/proc/self/mountinfo").read_text().count("\n")
    result = cell.attack(attack)
    if cell.shares_kernel:
        assert result in REFUSED
    assert Path("/proc/self/mountinfo").read_text().count("\n") == before


def test_no_release_agent_can_be_set(cell: Cell) -> None:
    """The escape by way of a cgroup's release_agent needs such a file that can be written."""
    agents = list(Path("/sys/fs/cgroup").glob("*/release_agent"))
    before = [path.read_text() for path in agents]
    found = cell.shell("find / -xdev -name release_agent 2>/dev/null; cat /proc/mounts")
    if cell.shares_kernel:
        assert "release_agent" not in found
        assert "cgroup" not in found
    assert [path.read_text() for path in agents] == before


def test_keys_are_not_the_hosts(cell: Cell, host: Host) -> None:
    if cell.shares_kernel:
        for attack in ("add_key", "find_key", "request_key"):
            assert cell.attack(attack, host.word) in REFUSED
        assert cell.shell("cat /proc/keys") == ""
    assert host.word not in Path("/proc/keys").read_text()


def test_an_abstract_socket_of_the_host_is_not_there(cell: Cell, host: Host) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0{host.word}")  # from outside it is
    assert cell.attack("abstract_socket", host.word) == errno.ECONNREFUSED


def test_shared_memory_of_the_host_is_not_there(cell: Cell, host: Host) -> None:
    assert cell.attack("shared_memory", host.shared_memory) in (errno.ENOENT, errno.ENOSYS)
    shm = Path("/dev/shm") / host.word
    shm.write_text("x")
    try:
        assert cell.attack("open_file", shm) == errno.ENOENT
    finally:
        shm.unlink()


SETTINGS = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sysrq-trigger",
    "/proc/1/oom_score_adj",
    "/sys/kernel/uevent_helper",
    "/sys/power/state",
    "/sys/kernel/mm/ksm/run",
)


@pytest.mark.parametrize("path", SETTINGS)
def test_no_setting_of_the_kernel_can_be_written(cell: Cell, path: str) -> None:
    """Where the kernel is shared; a guest's own settings are its own."""
    if not cell.shares_kernel:
        if path in ("/proc/sysrq-trigger", "/sys/power/state"):
            pytest.skip("it would end the guest, as it may")
        before = Path(path).read_text() if Path(path).exists() else ""
        cell.attack("write_file", path)
        assert (Path(path).read_text() if Path(path).exists() else "") == before
        return
    result = cell.attack("write_file", path)
    if path == "/proc/1/oom_score_adj":
        assert result in (0, *REFUSED)  # its own first process; more likely to be killed, not less
    else:
        assert result in (errno.EROFS, errno.ENOENT, *REFUSED)


@pytest.mark.parametrize("attack", ["packet_socket", "raw_socket", "hypervisor_socket"])
def test_no_raw_socket(cell: Cell, attack: str) -> None:
    """Of a container; a microVM may send what it likes, and its port drops what is not its own."""
    result = cell.attack(attack)
    if cell.shares_kernel:
        assert result in REFUSED


@pytest.mark.parametrize(
    "attack",
    ["load_module", "load_kernel", "load_bpf", "perf", "io_uring", "fault_handler", "kernel_log",
     "set_priority"],
)  # fmt: skip
def test_no_way_into_the_kernel(cell: Cell, attack: str) -> None:
    before = Path("/proc/modules").read_text() if Path("/proc/modules").exists() else ""
    result = cell.attack(attack)
    if cell.shares_kernel:
        assert result in REFUSED
    after = Path("/proc/modules").read_text() if Path("/proc/modules").exists() else ""
    assert after.count("\n") == before.count("\n")


def test_the_hosts_clock_and_name_stay(cell: Cell) -> None:
    name, drift = os.uname().nodename, time.time() - time.monotonic()
    clock, hostname = cell.attack("set_clock"), cell.attack("set_hostname")
    if cell.shares_kernel:
        assert clock in REFUSED
        assert hostname in REFUSED
    assert os.uname().nodename == name
    assert abs(time.time() - time.monotonic() - drift) < 60
    cell.sandbox.agent.ping(wall_ns=1_000_000_000 * 10**9)
    if not cell.shares_kernel:
        cell.sandbox.adopt_identity()  # it is who it was again
    assert abs(time.time() - time.monotonic() - drift) < 60


def test_nothing_can_be_gained_by_a_program_with_another_owner(cell: Cell) -> None:
    if not cell.shares_kernel:
        pytest.skip("root of a guest is root there already")
    status = cell.shell("cat /proc/self/status")
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert int(status.split("CapBnd:")[1].split()[0], 16) & ~0xFB == 0
    # Root inside is nobody outside: what the host's root owns there it cannot change.
    pid = getattr(cell.sandbox, "pid", 0)
    owner = Path(f"/proc/{pid}/status").read_text().split("Uid:")[1].split()[0]
    assert int(owner) >= 0x70000000


def test_whose_kernel_it_is_can_be_read_inside(cell: Cell) -> None:
    hello = cell.sandbox.agent.hello()
    ours = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert (hello["boot_id"] == ours) is cell.shares_kernel
    assert hello["hostname"] == cell.sandbox.identity.hostname
    assert hello["machine_id"] == cell.sandbox.identity.machine_id
    assert hello["hostname"] != cell.neighbour.agent.hello()["hostname"]
