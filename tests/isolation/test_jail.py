"""Attacks from a VMM that a guest has taken over: a hostile program in QEMU's place, started and
forked by the code that confines QEMU, with and without the seccomp filter."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.host import cgroups
from harness.host.cgroup_limits import Limits
from harness.host.identity import allocate
from harness.host.leftovers import find
from harness.host.process import run as run_program
from harness.host.run import Run
from harness.host.session import open_run
from harness.paths import cache_directory
from harness.sandbox.qemu import jail as jails
from harness.sandbox.qemu.confinement import ALL, Part
from harness.sandbox.qemu.jail import Jailer
from harness.sandbox.qemu.sandbox import QemuSandbox
from harness.sandbox.qemu.vmm import opened, spawn
from harness.sandbox.qemu.vmm_log import FileLog
from harness.sandbox.qemu.zygote import Zygote, preload
from harness.sandbox.vm_state import VmState
from tests.isolation.conftest import Host

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or bool({"memory", "pids", "cpu"} & {*cgroups.find().unlimited}),
    reason="VMMs are confined wholly by root, where control groups can be written",
)

REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTTY)
GONE = (errno.ESRCH, errno.ENOENT, errno.ECONNREFUSED, errno.EROFS, errno.ENETUNREACH)
SMALL = Limits(memory=64 << 20, pids=24, cpus=0.5)
NEEDS_THE_FILTER = (
    "new_user_namespace", "io_uring", "add_key", "find_key", "request_key", "fork_once",
    "run_program", "perf", "kernel_log", "load_bpf", "fault_handler", "hypervisor_socket",
)  # fmt: skip
"""What any user may attempt."""


@dataclass(frozen=True)
class Captive:
    """A hostile program, confined as a VMM; `memory` is the number of a file that it has open."""

    guest: QemuSandbox
    neighbour: QemuSandbox
    filtered: bool
    memory: int

    def attack(self, name: str, argument: object = "") -> int:
        """Its errno; 0 if it succeeded."""
        self.guest.vmm.agent.settimeout(30)
        self.guest.vmm.agent.sendall(f"{name} {argument}".encode())
        return int(self.guest.vmm.agent.recv(16) or b"-1")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The binary of attack.c, linked dynamically: a zygote's library is preloaded into it."""
    target = tmp_path_factory.mktemp("hostile") / "attack"
    target.parent.chmod(0o755)
    run_program("gcc", "-O1", "-o", target, Path(__file__).with_name("attack.c"), "-lpthread")
    return target


@pytest.fixture(scope="module")
def own_run(hostile: Path) -> Iterator[Run]:
    """A run whose VMMs see the hostile program in their root."""
    files = jails._files_of_qemu
    with pytest.MonkeyPatch.context() as patch, open_run() as run:
        patch.setattr(jails, "_files_of_qemu", lambda kvm: [*files(kvm), hostile])
        yield run


KINDS = ("spawned", "forked", "spawned-unfiltered", "forked-unfiltered")


@pytest.fixture(scope="module", params=KINDS)
def captive(
    request: pytest.FixtureRequest,
    own_run: Run,
    hostile: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Captive]:
    how, _, rest = request.param.partition("-")
    memory = tmp_path_factory.mktemp("memory") / "memory"
    memory.write_bytes(b"what every guest maps")
    with ExitStack() as stack:
        parts = [part for part in ALL if part is not Part.FILTER] if rest else ALL
        jailer = Jailer(own_run, cache_directory(), parts)
        stack.callback(jailer.close)
        (file,) = stack.enter_context(opened(memory))
        made = [_captive(stack, own_run, jailer, hostile, how, file) for _ in range(2)]
        yield Captive(made[0], made[1], not rest, file)


def _captive(
    stack: ExitStack, run: Run, jailer: Jailer, program: Path, how: str, file: int
) -> QemuSandbox:
    line, preloaded = stack.enter_context(preload(cache_directory()))
    identity = allocate(run.leases, run.id)
    jail = jailer.confine(identity, SMALL, 1 << 20, kvm=False)
    forks = how == "forked"
    vmm = spawn(
        run, f"coppice-{identity.id}",
        lambda ends: (str(program), "serve", str(ends.agent)),
        incoming=False, jail=jail, given=[file, *([preloaded.descriptor] if forks else [])],
        environment=preloaded.environment if forks else None,
        zygote=preloaded.library if forks else None,
    )  # fmt: skip
    guest = QemuSandbox(vmm, identity, VmState.STOPPED)
    stack.callback(guest.destroy)
    if forks:
        guest = Zygote(guest, line, None).fork(run, allocate(run.leases, run.id))
        stack.callback(guest.destroy)
    guest.vmm.agent.settimeout(30)
    guest.vmm.agent.sendall(b"no such attack")
    assert guest.vmm.agent.recv(16) == b"-1\n", guest.vmm.stderr_tail()
    return guest


def _check(captive: Captive, attack: str, argument: object = "") -> None:
    if captive.filtered or attack not in NEEDS_THE_FILTER:
        assert captive.attack(attack, argument) in (*REFUSED, *GONE), (attack, argument)


def test_it_has_a_user_of_its_own_and_no_privilege(captive: Captive) -> None:
    users = set()
    for guest in (captive.guest, captive.neighbour):
        status = Path(f"/proc/{guest.vmm.process.pid}/status").read_text(encoding="utf-8")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        users.add(fields["Uid"])
        assert set(fields["Uid"].split()) == set(fields["Gid"].split())
        assert int(fields["Uid"].split()[0]) >= jails.USERS
        assert fields["Groups"].strip() == ""
        for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
            assert int(fields[f"Cap{kind}"], 16) == 0, kind
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == ("2" if captive.filtered else "0")
        assert fields["NSpid"].split()[-1] == "1"
        for kind in ("mnt", "pid", "net", "ipc", "uts"):
            own = Path(f"/proc/{guest.vmm.process.pid}/ns/{kind}").readlink()
            assert own != Path(f"/proc/self/ns/{kind}").readlink(), kind
    assert len(users) == 2


def test_it_has_no_descriptor_but_its_own(captive: Captive) -> None:
    for each in Path(f"/proc/{captive.guest.vmm.process.pid}/fd").iterdir():
        target = str(each.readlink())
        own = target.startswith(("socket:", "/dev/null")) or target.endswith((".log", "/memory"))
        assert own, target


@pytest.mark.parametrize(
    "attack",
    ["mount_tmpfs", "mount_proc", "mount_cgroup", "remount_proc", "unmount_mask", "change_root",
     "new_user_namespace", "new_cgroup_namespace", "open_by_handle", "make_memory_device",
     "packet_socket", "raw_socket", "hypervisor_socket", "load_module", "load_kernel", "load_bpf",
     "perf", "io_uring", "fault_handler", "kernel_log", "set_clock", "set_hostname",
     "set_priority", "raise_limit", "fork_once", "see_a_process"],
)  # fmt: skip
def test_what_only_a_host_does_is_refused(captive: Captive, attack: str) -> None:
    name = os.uname().nodename
    _check(captive, attack)
    assert os.uname().nodename == name


def test_no_user_can_be_taken(captive: Captive) -> None:
    for guest in (captive.neighbour, captive.guest):
        user = Path(f"/proc/{guest.vmm.process.pid}").stat().st_uid
        if guest is captive.neighbour or captive.filtered:
            _check(captive, "become_user", user or 0)
    _check(captive, "become_user", 0)


def test_processes_are_out_of_reach(captive: Captive, host: Host) -> None:
    neighbour = captive.neighbour.vmm.process.pid
    for pid in (host.pid, os.getpid(), neighbour):
        for attack in ("signal_process", "trace_process", "read_process", "enter_namespace"):
            _check(captive, attack, pid)
        for path in (f"/proc/{pid}/mem", f"/proc/{pid}/root", f"/proc/{pid}/environ"):
            _check(captive, "open_file", path)
    assert captive.neighbour.vmm.process.poll() is None


def test_files_of_the_host_and_of_others_are_out_of_reach(captive: Captive, host: Host) -> None:
    run = captive.neighbour.identity.lease.parent.parent
    log = captive.neighbour.vmm.log
    assert isinstance(log, FileLog) and log.path.exists()
    for path in (host.file, "/etc/passwd", "/etc/shadow", "/root", "/home", "/var", run, "/sys",
                 "/dev/kvm", "/dev/net/tun", "/dev/mem", "/dev/vda", "/bin/sh",
                 "/proc/kallsyms", "/proc/keys", "/proc/sys/kernel/core_pattern",
                 "/proc/sysrq-trigger", "/proc/mounts", "/proc/1/environ",
                 log.path):  # fmt: skip
        for up in ("", "/proc/self/root", "/proc/self/cwd/../../.."):
            assert captive.attack("open_file", f"{up}{path}") in (*REFUSED, *GONE), (up, path)


def test_nothing_can_be_written(captive: Captive) -> None:
    for directory in ("/", "/tmp", "/root", "/etc", "/usr/bin", "/proc"):
        _check(captive, "make_file", f"{directory.rstrip('/')}/file")
    for file in ("/usr/bin/qemu-system-x86_64", "/etc/ld.so.cache"):
        _check(captive, "open_to_write", file)
    _check(captive, "make_device", 8)


def test_what_it_reads_it_cannot_open_to_write(captive: Captive) -> None:
    """Guest memory of the checkpoint, which every restored guest maps."""
    path = f"/proc/self/fd/{captive.memory}"
    assert captive.attack("open_file", path) == 0
    _check(captive, "open_to_write", path)


def test_no_program_can_be_started(captive: Captive, hostile: Path) -> None:
    """The one execve that the filter allows is over."""
    _check(captive, "run_program", hostile)
    _check(captive, "run_program", "/usr/bin/qemu-system-x86_64")


def test_the_network_is_empty(captive: Captive, host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _check(captive, "connect_to_port", listener.getsockname()[1])
    _check(captive, "abstract_socket", host.word)


def test_keys_and_shared_memory_are_out_of_reach(captive: Captive, host: Host) -> None:
    for attack in ("add_key", "find_key", "request_key"):
        _check(captive, attack, host.word)
    _check(captive, "shared_memory", host.shared_memory)


def test_it_cannot_leave_its_control_group(captive: Captive) -> None:
    jail = captive.guest.vmm.jail
    assert jail
    assert jail.group
    pid = str(captive.guest.vmm.process.pid)
    for directory in jail.group.directories:
        assert pid in (directory / "cgroup.procs").read_text(encoding="utf-8").split()
        _check(captive, "write_file", directory.parent.parent.parent / "cgroup.procs")
        _check(captive, "write_file", directory.parent.parent.parent / "tasks")


def test_threads_are_limited(captive: Captive) -> None:
    assert captive.attack("thread_bomb") == errno.EAGAIN
    tasks = Path(f"/proc/{captive.guest.vmm.process.pid}/task").iterdir()
    assert len(list(tasks)) <= SMALL.pids


def test_memory_is_limited(captive: Captive) -> None:
    """The kernel ends it, and nothing else; the last test, since nothing is left to attack."""
    captive.guest.vmm.agent.settimeout(60)
    captive.guest.vmm.agent.sendall(b"memory_bomb")
    assert captive.guest.vmm.agent.recv(16) in (b"", f"{errno.ENOMEM}\n".encode())
    assert captive.neighbour.vmm.process.poll() is None


def test_nothing_is_left(own_run: Run) -> None:
    assert not [each for each in find(own_run.directory.parent) if each.run_id == own_run.id]
