"""Reads facts about a Linux machine from /proc, /sys and the kernel log; None: not available."""

from __future__ import annotations

import os
import re

from harness import control_groups
from harness.measure.system import System

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_KERNEL_THREAD = 0x00200000
_WARNING = 4


def _field(system: System, path: str, name: str, separator: str = ":") -> str | None:
    """The value of the first `name: value` line of a file."""
    found = re.search(
        rf"^{re.escape(name)}\s*{separator}\s*(.+?)\s*$", system.read(path) or "", re.MULTILINE
    )
    return found[1] if found else None


def _number(text: str | None) -> int | None:
    found = re.match(r"\d+", text or "")
    return int(found[0]) if found else None


# What the machine is.


def cpu(system: System) -> str | None:
    """The model name; on Arm, which has none, implementer and part numbers."""
    for name in ("model name", "Model", "cpu model", "uarch"):
        if found := _field(system, "/proc/cpuinfo", name):
            return found
    implementer = _field(system, "/proc/cpuinfo", "CPU implementer")
    part = _field(system, "/proc/cpuinfo", "CPU part")
    return f"Arm implementer {implementer} part {part}" if implementer and part else None


def microcode(system: System) -> str | None:
    return _field(system, "/proc/cpuinfo", "microcode")


def cores(system: System) -> int | None:
    """The number of logical CPUs that are online."""
    online = system.read("/sys/devices/system/cpu/online")
    if not online:
        return len(re.findall(r"^processor\s*:", system.read("/proc/cpuinfo") or "", re.M)) or None
    spans = [part.split("-") for part in online.split(",")]
    return sum(int(span[-1]) - int(span[0]) + 1 for span in spans)


def memory(system: System) -> int | None:
    return _meminfo(system, "MemTotal")


def os_name(system: System) -> str | None:
    name = _field(system, "/etc/os-release", "PRETTY_NAME", "=")
    return name.strip("\"'") if name else None


def kernel(system: System) -> str | None:
    release = system.read("/proc/sys/kernel/osrelease")
    return f"Linux {release}" if release else None


def secret_id(system: System) -> str | None:
    """A private identifier of this machine: only a keyed hash of it may be stored."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id", "/proc/sys/kernel/hostname"):
        found = system.read(path)
        if found and found != "uninitialized":
            return found
    return None


_DISKS = {
    "nvme": "NVMe SSD",
    "vd": "virtio disk",
    "xvd": "Xen disk",
    "mmcblk": "flash card",
    "zram": "compressed memory",
    "loop": "loop device",
    "pmem": "persistent memory",
}


def storage(system: System) -> str | None:
    """The device kind and file system of the cache directory: "virtio disk, ext4"."""
    mounts = [
        (parts[0].split(), parts[1].split())
        for line in (system.read("/proc/self/mountinfo") or "").splitlines()
        if len(parts := line.split(" - ", 1)) == 2
    ]
    wanted = str(system.cache)
    best, kind = "", None
    for left, right in mounts:
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), left[4])
        inside = wanted == point or wanted.startswith(point.rstrip("/") + "/")
        # Of two mounts on one mount point, the later hides the earlier.
        if inside and len(point) >= len(best):
            best, kind = point, _kind(system, left[2], right[0], right[1])
    return kind


def _kind(system: System, device: str, filesystem: str, source: str) -> str:
    if filesystem in ("tmpfs", "ramfs"):
        return f"memory, {filesystem}"
    for node in (f"/sys/dev/block/{device}", f"/sys/class/block/{source.rpartition('/')[2]}"):
        if system.read(f"{node}/uevent") is not None:
            return f"{_disk(system, node)}, {filesystem}"
    return filesystem


def _disk(system: System, node: str) -> str:
    below = system.glob(f"{node}/slaves/*")
    if below:
        return f"mapped {' and '.join(sorted({_disk(system, node) for node in below}))}"
    if system.read(f"{node}/partition") is not None:
        node = f"{node}/.."
    name = _field(system, f"{node}/uevent", "DEVNAME", "=") or ""
    for prefix, kind in _DISKS.items():
        if name.startswith(prefix):
            return kind
    spins = system.read(f"{node}/queue/rotational")
    return {"0": "SSD", "1": "hard disk"}.get(spins or "", name or "unknown disk")


_DMI = {
    "VMware": "vmware",
    "VirtualBox": "virtualbox",
    "innotek": "virtualbox",
    "Parallels": "parallels",
    "BHYVE": "bhyve",
    "Virtual Machine": "hyper-v",
    "Apple Virtualization": "apple",
    "Google Compute Engine": "kvm",
    "Amazon EC2": "kvm",
    "Firecracker": "kvm",
    "KVM": "kvm",
    "OpenStack": "kvm",
    "Xen": "xen",
    "QEMU": "qemu",
}


def virtualisation(system: System) -> str:
    """The hypervisor that this machine runs on: none, kvm, xen, hyper-v, ..., qemu-tcg, or unknown.

    Detected by the kernel's traces of a hypervisor, then by the firmware's DMI tables, then by what
    lscpu reads from the CPU. Bare metal in a cloud has a cloud's tables, but no hypervisor flag.
    """
    flags = (_field(system, "/proc/cpuinfo", "flags") or "").split()
    if (system.read("/sys/hypervisor/type") or "") == "xen":
        control = "control_d" in (system.read("/proc/xen/capabilities") or "")
        return "none" if control else "xen"
    tree = system.read("/proc/device-tree/hypervisor/compatible") or ""
    clocks = system.read(
        "/sys/devices/system/clocksource/clocksource0/available_clocksource"
    ) or ""  # fmt: skip
    if "kvm-clock" in clocks or "linux,kvm" in tree:
        return "kvm"
    if "hyperv_clocksource" in clocks:
        return "hyper-v"
    if flags and "hypervisor" not in flags:
        return "none"
    tables = " ".join(
        system.read(f"/sys/class/dmi/id/{name}") or ""
        for name in ("sys_vendor", "product_name", "board_vendor", "bios_vendor")
    )
    named = next((kind for mark, kind in _DMI.items() if mark in tables), None)
    if not flags:
        return named or "none"
    if named and named != "qemu":
        return named
    asked = re.search(r"^Hypervisor vendor:\s*(.+)$", system.run(["lscpu"]) or "", re.MULTILINE)
    if asked:
        return asked[1].strip().lower()
    # QEMU sets the hypervisor bit under TCG too, but without KVM's clock and vendor id.
    return "qemu-tcg" if named == "qemu" or "QEMU" in (cpu(system) or "") else "unknown"


# How the machine is doing.


def _meminfo(system: System, name: str) -> int | None:
    kib = _number(_field(system, "/proc/meminfo", name))
    return None if kib is None else kib * 1024


def load_1m(system: System) -> float:
    return float((system.read("/proc/loadavg") or "").split()[0])


def load_5m(system: System) -> float:
    return float((system.read("/proc/loadavg") or "").split()[1])


def load_15m(system: System) -> float:
    return float((system.read("/proc/loadavg") or "").split()[2])


def memory_available(system: System) -> int | None:
    return _meminfo(system, "MemAvailable")


def memory_free(system: System) -> int | None:
    return _meminfo(system, "MemFree")


def memory_limit(system: System) -> int | None:
    """The smallest limit of the harness's control groups: in a container it has less than the
    machine."""
    limits = control_groups.memory_limits(system.root)
    return limits[0] if limits else None


def cpu_limit(system: System) -> float | None:
    return control_groups.cpu_limit(system.root)


def pids_limit(system: System) -> int | None:
    return control_groups.pids_limit(system.root)


def memory_stall(system: System) -> float | None:
    """Seconds since boot during which at least one task waited for memory."""
    total = re.search(r"^some .*total=(\d+)", system.read("/proc/pressure/memory") or "", re.M)
    return int(total[1]) / 1e6 if total else None


def _vmstat(system: System, name: str) -> int | None:
    return _number(_field(system, "/proc/vmstat", name, " "))


def swap_in(system: System) -> int | None:
    pages = _vmstat(system, "pswpin")
    return None if pages is None else pages * _PAGE_BYTES


def swap_out(system: System) -> int | None:
    pages = _vmstat(system, "pswpout")
    return None if pages is None else pages * _PAGE_BYTES


def oom_kills(system: System) -> int | None:
    return _vmstat(system, "oom_kill")


_CPU_COLUMNS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


def _cpu_seconds(system: System, *wanted: str) -> float:
    """The sum of these columns of /proc/stat, in seconds, over all CPUs."""
    line = (system.read("/proc/stat") or "").split("\n", 1)[0].split()
    ticks = dict(zip(_CPU_COLUMNS, line[1:9], strict=True))
    return sum(int(ticks[name]) for name in wanted) / _TICKS_PER_S


def cpu_busy(system: System) -> float:
    """CPU seconds of all CPUs, with interrupts and guests, without steal and I/O wait."""
    return _cpu_seconds(system, "user", "nice", "system", "irq", "softirq")


def cpu_idle(system: System) -> float:
    return _cpu_seconds(system, "idle", "iowait")


def cpu_steal(system: System) -> float:
    return _cpu_seconds(system, "steal")


def cpu_interrupts(system: System) -> float:
    return _cpu_seconds(system, "irq", "softirq")


def cpu_kernel_threads(system: System) -> float | None:
    """CPU seconds of all current kernel threads; None where they are not visible."""
    ticks, seen = 0, False
    for path in system.glob("/proc/[0-9]*/stat"):
        # A command name may contain spaces and brackets; the fields after the last one do not.
        fields = (system.read(path) or "").rpartition(")")[2].split()
        if len(fields) > 12 and int(fields[6]) & _KERNEL_THREAD:
            seen = True
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_S if seen else None


def throttle_events(system: System) -> int | None:
    """Thermal throttling events so far: of every core, and once of each package."""
    found = False
    core_events, packages = 0, dict[str, int]()
    for path in system.glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle"):
        found = True
        core_events += _number(system.read(f"{path}/core_throttle_count")) or 0
        package = system.read(f"{path}/../topology/physical_package_id") or ""
        count = _number(system.read(f"{path}/package_throttle_count")) or 0
        packages[package] = max(packages.get(package, 0), count)
    return core_events + sum(packages.values()) if found else None


def _warnings(system: System) -> list[int] | None:
    """Sequence numbers of the kernel's own log records of level 4 (warning) or more severe."""
    log = system.kernel_log()
    if log is None:
        return None
    heads = [record.split(",", 2) for record in log]
    # Priority is facility * 8 + level; facility 0 is the kernel, others are programs.
    return [int(head[1]) for head in heads if len(head) == 3 and int(head[0]) <= _WARNING]


def kernel_warnings(system: System) -> int | None:
    found = _warnings(system)
    return None if found is None else len(found)


def kernel_newest_warning(system: System) -> int | None:
    """Sequence number of the newest warning, -1 for none; valid even after the log wraps."""
    found = _warnings(system)
    return None if found is None else max(found, default=-1)


def merging(system: System) -> str | None:
    """Kernel samepage merging: off, on, or unmerging."""
    state = system.read("/sys/kernel/mm/ksm/run")
    return {"0": "off", "1": "on", "2": "unmerging"}.get(state or "")


def huge_pages(system: System) -> str | None:
    chosen = re.search(
        r"\[(\w+)\]", system.read("/sys/kernel/mm/transparent_hugepage/enabled") or ""
    )
    return chosen[1] if chosen else None


def governor(system: System) -> str | None:
    """The frequency governors in use, joined by "+" where cores differ."""
    found = {
        system.read(path)
        for path in system.glob("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
    }
    return "+".join(sorted(name for name in found if name)) or None


def boost(system: System) -> bool | None:
    if (state := system.read("/sys/devices/system/cpu/cpufreq/boost")) is not None:
        return state == "1"
    if (state := system.read("/sys/devices/system/cpu/intel_pstate/no_turbo")) is not None:
        return state == "0"
    return None


def uptime(system: System) -> float:
    return float((system.read("/proc/uptime") or "").split()[0])
