"""Facts of this machine, checked against other programs, and of simulated machines."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from harness.errors import Unsupported
from harness.measure import machine, record
from harness.measure.system import System
from tests.measure.factory import run_record
from tests.measure.systems import FREEBSD, Canned, linux

needs_linux = pytest.mark.skipif(System().platform != "linux", reason="reads Linux's own programs")


def _output(*argv: str) -> str:
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed, nothing to compare with")
    done = subprocess.run(
        argv, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"}, encoding="utf-8"
    )
    return done.stdout


def _lscpu() -> dict[str, str]:
    fields = [line.split(":", 1) for line in _output("lscpu").splitlines() if ":" in line]
    return {name.strip(): value.strip() for name, value in fields}


@needs_linux
def test_the_cpu_facts_agree_with_lscpu() -> None:
    found, told = machine.describe("tcg"), _lscpu()
    assert found.cores == int(_output("getconf", "_NPROCESSORS_ONLN"))
    if "model name" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        assert found.cpu == told["Model name"]
    if found.virtualisation not in ("none", "unknown") and "Hypervisor vendor" in told:
        assert found.virtualisation == told["Hypervisor vendor"].lower()
    assert (found.class_ == "bare-metal") == ("Hypervisor vendor" not in told)


@needs_linux
def test_other_facts_agree_with_system_programs(tmp_path: Path) -> None:
    found = machine.describe("tcg", cache=tmp_path)
    assert found.memory_bytes == psutil.virtual_memory().total
    assert found.kernel == _output("uname", "-sr").strip()
    release = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
        if line
    )
    assert found.os == release["PRETTY_NAME"].strip('"')
    filesystem = _output("df", "--output=fstype", str(tmp_path)).split()[-1]
    assert found.storage.split(", ")[-1] == filesystem
    assert found.accelerator == "tcg"


@needs_linux
def test_storage_depends_on_the_directory() -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("no /dev/shm here")
    assert machine.describe(None, cache=Path("/dev/shm/coppice")).storage == "memory, tmpfs"


def test_the_description_contains_nothing_private() -> None:
    found = machine.describe("kvm")
    text = json.dumps(run_record(machine=found).to_json()["machine"])
    secret = machine.secret(System())
    assert len(secret) > 3 and secret not in text
    assert socket.gethostname() not in (found.id, found.name)
    assert re.fullmatch(r"[a-z0-9-]+-\d+c-\d+g-[0-9a-f]{6}", found.id)
    assert machine.describe("tcg").id == found.id


def test_two_machines_of_the_same_model_have_different_ids() -> None:
    ids = {machine.slug("AMD EPYC", 2, 2**34, f"machine {n}") for n in range(50)}
    assert len(ids) == 50
    assert all(one.startswith("amd-epyc-2c-16g-") for one in ids)


@pytest.mark.parametrize(
    ("cpu", "short"),
    [
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "intel-xeon-e5-2680-v4"),
        ("AMD Ryzen 7 5800U with Radeon Graphics", "amd-ryzen-7-5800u"),
        ("AMD EPYC 7B13 64-Core Processor", "amd-epyc-7b13"),
        ("???", "unknown"),
    ],
)
def test_a_directory_name_is_short_and_safe(cpu: str, short: str) -> None:
    assert machine.slug(cpu, 4, 8 * 2**30, "x").startswith(f"{short}-4c-8g-")


@needs_linux
def test_the_state_agrees_with_other_programs() -> None:
    state = machine.state()
    times, memory = psutil.cpu_times(), psutil.virtual_memory()
    assert state["cpu_busy_s"] == pytest.approx(
        times.user + times.nice + times.system + times.irq + times.softirq, abs=2
    )
    assert state["cpu_idle_s"] == pytest.approx(times.idle + times.iowait, abs=2)
    assert state["cpu_steal_s"] == pytest.approx(times.steal, abs=2)
    assert state["memory_available_bytes"] == pytest.approx(memory.available, rel=0.1)
    swap = psutil.swap_memory()
    assert (state["swap_in_bytes"], state["swap_out_bytes"]) == (swap.sin, swap.sout)
    assert state["load_15m"] == pytest.approx(os.getloadavg()[2], abs=0.5)
    record.check(run_record(machine=replace(machine.describe(None), before=state)).to_json())


@needs_linux
def test_kernel_warnings_are_those_of_dmesg() -> None:
    words = ("dmesg", "--kernel", "--level", "emerg,alert,crit,err,warn", "--json")
    for _ in range(20):
        first = _output(*words)
        found = machine.state()["kernel_warnings"]
        if found is None:
            pytest.skip("/dev/kmsg may not be read here: run as root")
        if (told := _output(*words)) == first:  # otherwise something was logged meanwhile
            break
    # Without warnings dmesg prints nothing, not an empty list.
    assert found == (len(json.loads(told)["dmesg"]) if told else 0)


def test_every_fact_has_the_type_of_its_table() -> None:
    names = [fact.name for fact in machine.DESCRIPTION + machine.STATE]
    assert len(set(names)) == len(names)
    for fact in machine.DESCRIPTION + machine.STATE:
        value = fact.collect(System())
        assert value is None or type(value) is fact.type
        assert fact.name.endswith("_bytes") == (fact.unit == "bytes")
        assert fact.name.endswith("_s") == (fact.unit == "s")


def test_a_fact_of_the_wrong_type_is_a_defect() -> None:
    wrong = machine.Fact("cores", int, "1", "identity", lambda _: "two", None)
    with pytest.raises(TypeError, match="cores is 'two', not of type int"):
        wrong.collect(replace(System(), platform="linux"))


def test_an_unsupported_system_is_refused_with_a_reason() -> None:
    with pytest.raises(Unsupported, match="not supported on darwin"):
        machine.state(replace(System(), platform="darwin"))


# Linux machines that are not there.

CPUINFO = "processor : 0\nmodel name\t: A\nflags\t\t: fpu {flag}\nprocessor : 1\n"
CLOCKS = "/sys/devices/system/clocksource/clocksource0/available_clocksource"


@pytest.mark.parametrize(
    ("flag", "files", "lscpu", "expected", "class_"),
    [
        ("sse", {}, "", "none", "bare-metal"),
        ("sse", {"/sys/class/dmi/id/sys_vendor": "Amazon EC2"}, "", "none", "bare-metal"),
        ("hypervisor", {CLOCKS: "tsc kvm-clock acpi_pm"}, "", "kvm", "virtual-machine"),
        ("hypervisor", {CLOCKS: "hyperv_clocksource_tsc_page"}, "", "hyper-v", "virtual-machine"),
        ("hypervisor", {"/sys/class/dmi/id/sys_vendor": "VMware, Inc."}, "", "vmware",
         "virtual-machine"),
        ("hypervisor", {"/sys/class/dmi/id/product_name": "BHYVE"}, "", "bhyve",
         "virtual-machine"),
        ("hypervisor", {"/sys/class/dmi/id/sys_vendor": "QEMU"}, "", "qemu-tcg", "emulated"),
        ("hypervisor", {"/sys/class/dmi/id/sys_vendor": "QEMU"}, "Hypervisor vendor:  KVM", "kvm",
         "virtual-machine"),
        ("hypervisor", {}, "", "unknown", "virtual-machine"),
        ("sse", {"/sys/hypervisor/type": "xen"}, "", "xen", "virtual-machine"),
        ("sse", {"/sys/hypervisor/type": "xen", "/proc/xen/capabilities": "control_d"}, "", "none",
         "bare-metal"),
    ],
)  # fmt: skip
def test_the_virtualisation_of_a_linux_machine(
    tmp_path: Path, flag: str, files: dict[str, str], lscpu: str, expected: str, class_: str
) -> None:
    basic = {"/proc/cpuinfo": CPUINFO.format(flag=flag), "/proc/meminfo": "MemTotal: 1048576 kB"}
    system = linux(tmp_path, basic | files, programs={"lscpu": lscpu})
    found = machine.describe(None, system=system)
    assert (found.virtualisation, found.class_) == (expected, class_)
    assert (found.cpu, found.cores, found.memory_bytes) == ("A", 2, 2**30)
    assert (found.microcode, found.os, found.storage) == (None, "unknown", "unknown")


MOUNTS = """\
22 1 8:2 / / rw shared:1 - ext4 /dev/sda2 rw
23 22 0:30 / /var rw shared:2 master:1 - tmpfs tmpfs rw
24 23 {device} / /var/cache rw - {filesystem} {source} rw
25 22 8:9 / /var/cache\\040old rw - ext4 /dev/sda9 rw
"""
SDA1 = {
    "/sys/dev/block/8:1/partition": "1",
    "/sys/dev/block/8:1/uevent": "DEVNAME=sda1\nDEVTYPE=partition",
    "/sys/dev/block/uevent": "DEVNAME=sda",
}


@pytest.mark.parametrize(
    ("device", "filesystem", "source", "files", "expected"),
    [
        ("8:1", "ext4", "/dev/sda1", SDA1 | {"/sys/dev/block/queue/rotational": "0"}, "SSD, ext4"),
        ("8:1", "xfs", "/dev/sda1", SDA1 | {"/sys/dev/block/queue/rotational": "1"},
         "hard disk, xfs"),
        ("259:0", "ext4", "/dev/nvme0n1", {"/sys/dev/block/259:0/uevent": "DEVNAME=nvme0n1"},
         "NVMe SSD, ext4"),
        ("0:40", "btrfs", "/dev/vda", {"/sys/class/block/vda/uevent": "DEVNAME=vda"},
         "virtio disk, btrfs"),
        ("253:0", "ext4", "/dev/mapper/x", {
            "/sys/dev/block/253:0/uevent": "DEVNAME=dm-0",
            "/sys/dev/block/253:0/slaves/nvme0n1/uevent": "DEVNAME=nvme0n1",
        }, "mapped NVMe SSD, ext4"),
        ("0:50", "tmpfs", "tmpfs", {}, "memory, tmpfs"),
        ("0:51", "overlay", "overlay", {}, "overlay"),
    ],
)  # fmt: skip
def test_the_storage_of_a_linux_machine(
    tmp_path: Path, device: str, filesystem: str, source: str, files: dict[str, str], expected: str
) -> None:
    mounts = MOUNTS.format(device=device, filesystem=filesystem, source=source)
    system = linux(tmp_path, {"/proc/self/mountinfo": mounts} | files)
    assert machine.facts_of(machine.DESCRIPTION, system)["storage"] == expected


def _state(tmp_path: Path, files: dict[str, str], log: Sequence[str] | None = None) -> record.Facts:
    return machine.state(linux(tmp_path, files, log=log))


def test_unavailable_facts_of_a_linux_machine_are_null(tmp_path: Path) -> None:
    assert set(_state(tmp_path, {}).values()) == {None}


def test_throttling_counts_each_package_once(tmp_path: Path) -> None:
    files = {}
    for cpu, package, core_count, package_count in ((0, 0, 1, 7), (1, 0, 2, 7), (2, 1, 4, 30)):
        directory = f"/sys/devices/system/cpu/cpu{cpu}"
        files[f"{directory}/thermal_throttle/core_throttle_count"] = f"{core_count}\n"
        files[f"{directory}/thermal_throttle/package_throttle_count"] = f"{package_count}\n"
        files[f"{directory}/topology/physical_package_id"] = f"{package}\n"
    assert _state(tmp_path, files)["throttle_events"] == 1 + 2 + 4 + 7 + 30


def test_only_the_kernels_own_warnings_are_counted(tmp_path: Path) -> None:
    log = [
        "6,100,5,-;fine",
        "4,101,6,-;a warning\n SUBSYSTEM=pci",
        "3,102,7,c;an error, with a comma",
        "12,103,8,-;a warning of a program: facility 1",
        "5,104,9,-;a notice",
    ]
    state = _state(tmp_path, {}, log)
    assert (state["kernel_warnings"], state["kernel_newest_warning"]) == (2, 102)
    state = _state(tmp_path, {}, [])
    assert (state["kernel_warnings"], state["kernel_newest_warning"]) == (0, -1)


def test_kernel_threads_are_distinguished_from_programs(tmp_path: Path) -> None:
    tick = os.sysconf("SC_CLK_TCK")
    stat = "{pid} ({name}) S 2 0 0 0 -1 {flags} 0 0 0 0 {user} {system} 900 900 20 0 1 0"
    kernel = stat.format(pid=20, name="kswapd (0) x", flags=2129984, user=tick, system=2 * tick)
    program = stat.format(pid=21, name="qemu", flags=4194560, user=500, system=500)
    state = _state(tmp_path, {"/proc/20/stat": kernel, "/proc/21/stat": program})
    assert state["cpu_kernel_threads_s"] == 3.0


def test_settings_of_a_linux_machine(tmp_path: Path) -> None:
    cpu = "/sys/devices/system/cpu"
    state = _state(
        tmp_path,
        {
            "/sys/kernel/mm/ksm/run": "1\n",
            "/sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
            f"{cpu}/cpu0/cpufreq/scaling_governor": "powersave\n",
            f"{cpu}/cpu1/cpufreq/scaling_governor": "performance\n",
            f"{cpu}/intel_pstate/no_turbo": "1\n",
            "/proc/pressure/memory": "some avg10=0.00 total=2500000\nfull avg10=0.00 total=1\n",
        },
    )
    assert state["samepage_merging"] == "on"
    assert state["huge_pages"] == "madvise"
    assert state["governor"] == "performance+powersave"
    assert state["boost"] is False
    assert state["memory_stall_s"] == 2.5


# A FreeBSD machine that is not there: this shows that the collectors read what we believe its
# programs print, and no more.


def _freebsd(**changes: str) -> Canned:
    return Canned("freebsd", Path("/"), Path("/var/cache/coppice"), FREEBSD | changes)


def test_the_description_of_a_simulated_freebsd_machine() -> None:
    found = machine.describe("vmm", system=_freebsd())
    assert found.cpu == "AMD Ryzen 9 7950X 16-Core Processor"
    assert (found.cores, found.memory_bytes, found.microcode) == (32, 68441210880, None)
    assert (found.os, found.kernel) == ("FreeBSD 15.0-RELEASE-p1", "FreeBSD 15.0-RELEASE COPPICE")
    assert (found.class_, found.storage) == ("bare-metal", "NVMe SSD, zfs")
    assert found.id.startswith("amd-ryzen-9-7950x-32c-64g-")
    assert FREEBSD["sysctl -n kern.hostuuid"] not in str(found)
    record.check(run_record(machine=found).to_json())


def test_the_virtualisation_of_a_simulated_freebsd_guest() -> None:
    found = machine.describe("vmm", system=_freebsd(**{"sysctl -n kern.vm_guest": "hv"}))
    assert (found.virtualisation, found.class_) == ("hyper-v", "virtual-machine")


def test_the_storage_of_a_simulated_freebsd_machine_with_a_hard_disk() -> None:
    changes = {
        "df -T /var": "Filesystem Type 1K\n/dev/ada0p2 ufs 100 1 99 1% /",
        "diskinfo -v ada0": "ada0\n\t512  # sectorsize\n\t7200 # Rotation rate in RPM\n",
    }
    assert machine.describe(None, system=_freebsd(**changes)).storage == "hard disk, ufs"


def test_the_state_of_a_simulated_freebsd_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1767225600 + 90.0)
    found = machine.state(_freebsd())
    assert (found["load_1m"], found["load_5m"], found["load_15m"]) == (0.52, 0.41, 0.30)
    assert found["memory_available_bytes"] == 1520 * 4096
    assert found["memory_free_bytes"] == 1000 * 4096
    assert (found["swap_in_bytes"], found["swap_out_bytes"]) == (3 * 4096, 4 * 4096)
    assert (found["cpu_busy_s"], found["cpu_idle_s"], found["cpu_interrupts_s"]) == (33, 1000, 2)
    assert (found["huge_pages"], found["uptime_s"]) == ("on", 90)
    # FreeBSD has no such facts: they are null, not 0.
    for name in ("oom_kills", "cpu_steal_s", "throttle_events", "kernel_warnings", "governor"):
        assert found[name] is None


def test_a_freebsd_machine_without_sysctl_is_refused() -> None:
    silent = Canned("freebsd", Path("/"), Path("/var"))
    assert set(machine.state(silent).values()) == {None}
    with pytest.raises(Unsupported, match="cannot read this machine's CPU count"):
        machine.describe(None, system=silent)
