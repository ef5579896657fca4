"""Simulated machines: files in a directory, and recorded output of programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.measure.system import System


@dataclass(frozen=True)
class Canned(System):
    """`programs` maps command lines to output; `log` has the kernel's log records."""

    programs: Mapping[str, str] = field(default_factory=dict)
    log: Sequence[str] | None = None

    def run(self, argv: Sequence[str]) -> str | None:
        return self.programs.get(" ".join(argv))

    def kernel_log(self) -> Sequence[str] | None:
        return self.log


def linux(root: Path, files: Mapping[str, str], **changes: object) -> Canned:
    """A Linux machine with these files."""
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Canned("linux", root, Path("/var/cache/coppice"), **changes)  # type: ignore[arg-type]


# General knowledge of what these programs print, not copied from a machine.
FREEBSD = {
    "sysctl -n hw.model": "AMD Ryzen 9 7950X 16-Core Processor",
    "sysctl -n hw.ncpu": "32",
    "sysctl -n hw.physmem": "68441210880",
    "sysctl -n hw.pagesize": "4096",
    "sysctl -n kern.osrelease": "15.0-RELEASE",
    "sysctl -n kern.ident": "COPPICE",
    "sysctl -n kern.hostuuid": "11111111-2222-3333-4444-555555555555",
    "sysctl -n kern.vm_guest": "none",
    "freebsd-version -u": "15.0-RELEASE-p1",
    "df -T /var": (
        "Filesystem         Type 1K-blocks  Used Avail Capacity Mounted on\n"
        "zroot/var          zfs  900000000 10000 89999     1%    /var"
    ),
    "zpool list -v -H -P zroot": (
        "zroot\t928G\t100G\t828G\t-\t-\t3%\t10%\t1.00x\tONLINE\t-\n"
        "\t/dev/nda0p4\t930G\t100G\t828G\t-\t-\t3%\t10.8%\t-\tONLINE"
    ),
    "sysctl -n vm.loadavg": "{ 0.52 0.41 0.30 }",
    "sysctl -n vm.stats.vm.v_free_count": "1000",
    "sysctl -n vm.stats.vm.v_inactive_count": "500",
    "sysctl -n vm.stats.vm.v_laundry_count": "20",
    "sysctl -n vm.stats.vm.v_swappgsin": "3",
    "sysctl -n vm.stats.vm.v_swappgsout": "4",
    "sysctl -n kern.cp_time": "1270 127 2540 254 127000",
    "sysctl -n kern.clockrate": "{ hz = 1000, tick = 1000, profhz = 8126, stathz = 127 }",
    "sysctl -n kern.boottime": "{ sec = 1767225600, usec = 5 } Thu Jan  1 00:00:00 2026",
    "sysctl -n vm.pmap.pg_ps_enabled": "1",
}
