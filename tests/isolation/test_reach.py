"""Attacks from inside a sandbox on the host and on a neighbour.

On a shared kernel every attempt is refused; on a guest's own kernel some succeed, inside, and their
targets on the host are unaffected.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path

import pytest

from tests.isolation.conftest import Attacker, Host

REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS)
GONE = (errno.ESRCH, errno.ENOENT, errno.ECONNREFUSED)


def _alive(pid: int) -> bool:
    return (
        Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in "RSD"
    )


def test_processes_of_the_host_are_invisible(attacker: Attacker, host: Host) -> None:
    seen = attacker.shell("cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'")
    assert "attack" not in seen
    assert host.word not in seen
    pids = attacker.shell("ls /proc | grep '^[0-9]'").split()
    if attacker.shares_kernel:
        assert len(pids) < 10
        assert "1" in pids


def test_processes_of_the_host_cannot_be_signalled_traced_or_read(
    attacker: Attacker, host: Host
) -> None:
    for name in ("signal_process", "trace_process", "read_process"):
        assert attacker.attack(name, host.pid) in (*GONE, *REFUSED), name
    assert attacker.attack("enter_namespace", host.pid) in (*GONE, *REFUSED)
    assert _alive(host.pid)


def test_a_signal_to_all_stays_inside(attacker: Attacker, host: Host) -> None:
    attacker.sandbox.agent.run(["/bin/sh", "-c", "kill -9 -1"])
    assert _alive(host.pid)
    attacker.neighbour.awaken(30)
    attacker.sandbox.awaken(30)


def test_files_of_the_host_and_the_neighbour_are_unreachable(
    attacker: Attacker, host: Host
) -> None:
    assert attacker.attack("open_file", host.file) in (*GONE, *REFUSED)
    attacker.neighbour.agent.write_file("/tmp/own", b"the neighbour's")
    assert attacker.attack("open_file", "/tmp/own") == errno.ENOENT
    for path in ("/proc/1/root", "/proc/self/root", "/proc/1/cwd/../../.."):
        assert attacker.attack("open_file", f"{path}{host.file}") in (*GONE, *REFUSED)


def test_links_do_not_lead_out(attacker: Attacker, host: Host) -> None:
    attacker.shell(f"ln -sf ../../../../../../../..{host.file} /tmp/link")
    assert attacker.attack("open_file", "/tmp/link") in (*GONE, *REFUSED)


def test_mounts_reveal_no_path_of_the_host(attacker: Attacker, host: Host) -> None:
    mounts = attacker.shell("cat /proc/self/mountinfo")
    assert mounts
    here = os.uname().nodename + "."
    for word in (host.word, str(host.file.parent), here, "/home", f"{Path.home()}/"):
        if word != ".":
            assert word not in mounts, word


def test_no_device_of_the_host_can_be_made_or_opened(attacker: Attacker) -> None:
    disks = [disk / "dev" for disk in Path("/sys/block").iterdir()]
    majors = {
        int(path.read_text(encoding="utf-8").partition(":")[0]) for path in disks if path.exists()
    }
    for major in majors or {8}:
        assert attacker.attack("make_device", major) in (*REFUSED, errno.ENXIO, errno.ENOENT)
    if attacker.shares_kernel:
        assert attacker.attack("make_memory_device") in REFUSED
        for path in ("/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/net/tun", "/dev/fuse", "/dev/vda"):
            assert attacker.attack("open_file", path) in (*GONE, *REFUSED), path


def test_file_handles_cannot_be_opened(attacker: Attacker) -> None:
    result = attacker.attack("open_by_handle")
    assert result in (*REFUSED, errno.EOPNOTSUPP, errno.ESTALE, errno.EINVAL)


@pytest.mark.parametrize(
    "attack",
    ["mount_tmpfs", "mount_proc", "mount_cgroup", "remount_proc", "unmount_mask",
     "new_user_namespace", "new_cgroup_namespace"],
)  # fmt: skip
def test_no_mounts_and_no_namespaces(attacker: Attacker, attack: str) -> None:
    before = Path("/proc/self/mountinfo").read_text(encoding="utf-8").count("\n")
    result = attacker.attack(attack)
    if attacker.shares_kernel:
        assert result in REFUSED
    assert Path("/proc/self/mountinfo").read_text(encoding="utf-8").count("\n") == before


def test_no_release_agent_can_be_set(attacker: Attacker) -> None:
    """An escape by release_agent needs a writable file of that name in a cgroup."""
    agents = list(Path("/sys/fs/cgroup").glob("*/release_agent"))
    before = [path.read_text(encoding="utf-8") for path in agents]
    found = attacker.shell("find / -xdev -name release_agent 2>/dev/null; cat /proc/mounts")
    if attacker.shares_kernel:
        assert "release_agent" not in found
        assert "cgroup" not in found
    assert [path.read_text(encoding="utf-8") for path in agents] == before


def test_keys_are_not_the_hosts(attacker: Attacker, host: Host) -> None:
    if attacker.shares_kernel:
        for attack in ("add_key", "find_key", "request_key"):
            assert attacker.attack(attack, host.word) in REFUSED
        assert attacker.shell("cat /proc/keys") == ""
    assert host.word not in Path("/proc/keys").read_text(encoding="utf-8")


def test_abstract_sockets_of_the_host_are_unreachable(attacker: Attacker, host: Host) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0{host.word}")  # it exists outside
    assert attacker.attack("abstract_socket", host.word) == errno.ECONNREFUSED


def test_shared_memory_of_the_host_is_unreachable(attacker: Attacker, host: Host) -> None:
    assert attacker.attack("shared_memory", host.shared_memory) in (errno.ENOENT, errno.ENOSYS)
    shm = Path("/dev/shm") / host.word
    shm.write_text("x", encoding="utf-8")
    try:
        assert attacker.attack("open_file", shm) == errno.ENOENT
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
def test_kernel_settings_are_read_only(attacker: Attacker, path: str) -> None:
    """On a shared kernel; a guest's settings are its own."""
    if not attacker.shares_kernel:
        if path in ("/proc/sysrq-trigger", "/sys/power/state"):
            pytest.skip("it would end the guest, as it may")
        before = Path(path).read_text(encoding="utf-8") if Path(path).exists() else ""
        attacker.attack("write_file", path)
        assert (Path(path).read_text(encoding="utf-8") if Path(path).exists() else "") == before
        return
    result = attacker.attack("write_file", path)
    if path == "/proc/1/oom_score_adj":
        assert result in (
            0,
            *REFUSED,
        )  # its own first process
    else:
        assert result in (errno.EROFS, errno.ENOENT, *REFUSED)


@pytest.mark.parametrize("attack", ["packet_socket", "raw_socket", "hypervisor_socket"])
def test_no_raw_socket(attacker: Attacker, attack: str) -> None:
    """In containers; a microVM may send raw frames, and its port drops forged ones."""
    result = attacker.attack(attack)
    if attacker.shares_kernel:
        assert result in REFUSED


@pytest.mark.parametrize(
    "attack",
    ["load_module", "load_kernel", "load_bpf", "perf", "io_uring", "fault_handler", "kernel_log",
     "set_priority"],
)  # fmt: skip
def test_kernel_interfaces_are_refused(attacker: Attacker, attack: str) -> None:
    before = (
        Path("/proc/modules").read_text(encoding="utf-8") if Path("/proc/modules").exists() else ""
    )
    result = attacker.attack(attack)
    if attacker.shares_kernel:
        assert result in REFUSED
    after = (
        Path("/proc/modules").read_text(encoding="utf-8") if Path("/proc/modules").exists() else ""
    )
    assert after.count("\n") == before.count("\n")


def test_the_hosts_clock_and_name_are_unaffected(attacker: Attacker) -> None:
    name, drift = os.uname().nodename, time.time() - time.monotonic()
    clock, hostname = attacker.attack("set_clock"), attacker.attack("set_hostname")
    if attacker.shares_kernel:
        assert clock in REFUSED
        assert hostname in REFUSED
    assert os.uname().nodename == name
    assert abs(time.time() - time.monotonic() - drift) < 60
    attacker.sandbox.agent.ping(wall_ns=1_000_000_000 * 10**9)
    if not attacker.shares_kernel:
        attacker.sandbox.adopt_identity()  # restore its name
    assert abs(time.time() - time.monotonic() - drift) < 60


def test_set_user_id_programs_gain_nothing(attacker: Attacker) -> None:
    if not attacker.shares_kernel:
        pytest.skip("root of a guest is root there already")
    status = attacker.shell("cat /proc/self/status")
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert int(status.split("CapBnd:")[1].split()[0], 16) & ~0xFB == 0
    # Root inside is unprivileged outside: it cannot change files of the host's root.
    pid = getattr(attacker.sandbox, "pid", 0)
    owner = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").split("Uid:")[1].split()[0]
    assert int(owner) >= 0x70000000


def test_the_kernels_identity_is_visible(attacker: Attacker) -> None:
    hello = attacker.sandbox.agent.hello()
    ours = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    assert (hello["boot_id"] == ours) is attacker.shares_kernel
    assert hello["hostname"] == attacker.sandbox.identity.hostname
    assert hello["machine_id"] == attacker.sandbox.identity.machine_id
    assert hello["hostname"] != attacker.neighbour.agent.hello()["hostname"]
