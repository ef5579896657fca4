"""`coppice doctor` and `clean` on a host written from documentation: NOT recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import Unsupported
from harness.host import freebsd, leftovers_freebsd
from harness.host.requirement import Requirement
from harness.measure import memory_freebsd
from harness.network import requirements as linux
from harness.procedures.fleet import runnable_on_freebsd
from harness.procedures.linux_only import require_linux
from tests.freebsd.documented import FAILS, host
from tests.freebsd.hosts import Answer
from tests.measure.systems import Canned

REFUSED: list[tuple[str, Answer]] = [
    ("sh -c dmesg .*", Answer("SVM: missing NRIP save feature\n")),
    ("sysctl -n hw.vmm.create", FAILS),
]


def lines(*first: tuple[str, Answer]) -> dict[str, Requirement]:
    return {line.what: line for line in freebsd.all_requirements(host(*first, *REFUSED))}


def test_a_complete_host_satisfies_everything() -> None:
    found = lines()
    assert [line.what for line in found.values() if not line.satisfied] == []
    assert len(found) >= 16


CASES = [
    ("id -u", Answer("1001\n"), "root", "as root"),
    ("grep -E .*", Answer("  VT-x: PAT,HLT,MTF,PAUSE,EPT,VPID\n"),
     "a CPU for vmm", "firmware"),
    ("grep -E .*", Answer("  SVM: NP,NAsids=16\n"), "a CPU for vmm", "NRIP"),
    ("grep -E .*", FAILS, "a CPU for vmm", "firmware"),
    ("kldstat -q -m vmm", FAILS, "vmm", "kldload vmm"),
    (r"bhyvectl --vm=coppice-\*-doctor --create", Answer("", 1, "vm_create: Device not conf"),
     "vmm", "but does not work: SVM: missing NRIP"),
    ("bhyvectl --help", Answer("[--create]\n"),
     "BHYVE_SNAPSHOT, for the durable tiers", "options BHYVE_SNAPSHOT"),
    ("sysctl -n hw.vmm.vnode_restore", FAILS,
     "the vnode patch, for shared guest memory", "patches/vmm-vnode"),
    ("sysctl -n kern.features.vimage", FAILS, "VIMAGE, for jails with networks", "options VIMAGE"),
    ("kldstat -q -m if_epair", FAILS, "epair and bridge", "kldload if_epair"),
    ("sysctl -n net.link.bridge.pfil_member", Answer("0\n"),
     "net.link.bridge.pfil_member=1", "sysctl net.link.bridge.pfil_member=1"),
    ("sysctl -n net.link.bridge.pfil_bridge", Answer("1\n"),
     "net.link.bridge.pfil_bridge=0", "sysctl net.link.bridge.pfil_bridge=0"),
    ("kldstat -q -m pf", FAILS, "pf", "kldload pf"),
    ("pfctl -s info", Answer("Status: Disabled\n"), "pf", "pfctl -e"),
    ("pfctl -s rules", Answer(""), "pf's root anchor coppice/*", 'anchor "coppice/*"'),
    ("pfctl -s memory", Answer("anchors  hard limit  512\n"),
     "pf's anchor limit", "set limit anchors 4096"),
    ("sysctl -n kern.racct.enable", Answer("0\n"),
     "racct and rctl, for jail limits", "kern.racct.enable=1"),
    ("zpool list -H -o name", Answer(""), "a ZFS pool", "zpool create"),
    (r"zfs get -H -p -o value available \S+", Answer("4096\n"), "free space in it", "zfs list"),
    ("sysctl -n hw.physmem", Answer("536870912\n"), "memory", "more"),
    (r"test -r \S+BHYVE_UEFI.fd", FAILS, "a bootrom, for Linux guests", "pkg install"),
]  # fmt: skip


BROKEN = (r"bhyvectl --vm=coppice-\*-doctor --create", Answer("", 1, "vm_create: Device not conf"))


def test_a_processor_that_vmm_supports_is_enough() -> None:
    line = lines(("grep -E .*", Answer("  SVM: NP,NAsids=16\n")))["a CPU for vmm"]
    assert line.satisfied and "without NRIP, but vmm works" in line.detail


@pytest.mark.parametrize(("command", "answer", "what", "remedy"), CASES)
def test_every_missing_requirement_has_a_remedy(
    command: str, answer: Answer, what: str, remedy: str
) -> None:
    more = [BROKEN] if what == "a CPU for vmm" else []
    line = lines((command, answer), *more)[what]
    assert not line.satisfied and remedy in (line.remedy or "") + line.detail


def test_an_old_pf_without_a_limit_of_anchors_is_accepted() -> None:
    assert "pf's anchor limit" not in lines(("pfctl -s memory", Answer("states hard limit 1\n")))


LEFT = [
    ("ps -axww -o pid= -o command=", Answer(
        "  812 bhyve: coppice-deadbeef-0000000000aa (bhyve)\n"
        "  900 bhyve: coppice-0123abcd-0000000000bb (bhyve)\n"
        "  901 bhyve: windows (bhyve)\n  902 vi /tmp/coppice-deadbeef-x\n")),
    ("jls name", Answer("coppice-deadbeef-0000000000aa\ncoppice\nwww\n")),
    ("mount -p", Answer(
        "/dev/ufs/root\t/\tufs\trw\t1 1\n"
        "devfs\t/var/run/coppice/run/coppice-deadbeef-0000000000aa/dev\tdevfs\trw\t0 0\n"
        "zroot/coppice/coppice-deadbeef-0000000000aa\t"
        "/var/db/coppice/coppice-deadbeef-0000000000aa\tzfs\trw\t0 0\n")),
    ("ls /dev/vmm", Answer("coppice-deadbeef-0000000000aa\nwindows\n")),
    ("ifconfig -g coppice", Answer("epair3a\nbridge1\nepair9a\n")),
    ("ifconfig epair3a",
     Answer("epair3a: flags=8943\n\tdescription: coppice-deadbeef-0000000000aa\n")),
    ("ifconfig bridge1", Answer("bridge1: flags=8843\n\tdescription: coppice-0123abcd-bridge\n")),
    ("ifconfig epair9a", Answer("epair9a: flags=8943\n\tdescription: mine\n")),
    ("pfctl -a coppice -s Anchors", Answer(
        "  coppice/coppice-deadbeef-0000000000aa\n  coppice/coppice-deadbeef-0000000000ab\n"
        "  coppice/somebodys\n")),
    # The second has been flushed: the kernel lists it until its rules are gone.
    (r"pfctl -a coppice/coppice-deadbeef-0000000000aa -s rules", Answer("block drop all\n")),
    (r"pfctl -a coppice/coppice-deadbeef-0000000000ab -s \S+", Answer("")),
    ("rctl", Answer(
        "jail:coppice-deadbeef-0000000000aa:memoryuse:deny=268435456\n"
        "jail:coppice-deadbeef-0000000000aa:maxproc:deny=128\njail:www:maxproc:deny=9\n")),
    ("zfs list -H -o name -t filesystem", Answer(
        "zroot\nzroot/coppice\nzroot/coppice/template.0123456789abcdef\n"
        "zroot/coppice/coppice-deadbeef-0000000000aa\n")),
    ("ls /var/tmp", Answer("coppice-deadbeef-0000000000aa\nvi.recover\n")),
]  # fmt: skip


def test_leftovers_are_found_in_order_of_removal() -> None:
    found = leftovers_freebsd.find(host(*LEFT), lambda mark: mark == "0123abcd")
    name = "coppice-deadbeef-0000000000aa"
    assert [(one.what, one.name) for one in found] == [
        ("bhyve", "812"),
        ("jail", name),
        ("mount", f"/var/run/coppice/run/{name}/dev"),
        ("vm", name),
        ("interface", "epair3a"),
        ("anchor", f"coppice/{name}"),
        ("limits", f"jail:{name}"),
        ("clone", f"zroot/coppice/{name}"),
        ("directory", f"/var/tmp/{name}"),
    ]
    assert {one.run_id for one in found} == {"deadbeef"}


def test_only_leftovers_are_removed() -> None:
    gone = [
        "kill -9 812", "jail -r coppice-deadbeef-0000000000aa", "umount -f /var/run/.*/dev",
        "bhyvectl --vm=coppice-deadbeef-0000000000aa --destroy", "ifconfig epair3a destroy",
        "pfctl -a coppice/coppice-deadbeef-0000000000aa -F all",
        "rctl -r jail:coppice-deadbeef-0000000000aa",
        "zfs destroy -f zroot/coppice/coppice-deadbeef-0000000000aa",
        "rm -rf /var/tmp/coppice-deadbeef-0000000000aa",
    ]  # fmt: skip
    there = host(*LEFT, *((one, Answer()) for one in gone))
    found = leftovers_freebsd.find(there, lambda mark: mark == "0123abcd")
    begun = len(there.log)
    for one in found:
        leftovers_freebsd.remove(there, one)
    assert len(there.log) - begun == len(gone)


def test_a_host_without_leftovers_is_clean() -> None:
    there = host(*((command, FAILS) for command, _ in LEFT))
    assert leftovers_freebsd.find(there, lambda mark: False) == []


def test_host_memory_is_read_from_sysctl(tmp_path: Path) -> None:
    said = (
        "hw.pagesize: 4096\nvm.stats.vm.v_free_count: 1000\nvm.stats.vm.v_inactive_count: 200\n"
        "vm.stats.vm.v_laundry_count: 30\nvm.stats.vm.v_active_count: 4\n"
        "vm.stats.vm.v_wire_count: 500\nkstat.zfs.misc.arcstats.size: 8192"
    )
    names = " ".join(line.partition(":")[0] for line in said.splitlines())
    there = Canned("freebsd", tmp_path, programs={f"sysctl -i {names}": said})
    memory = memory_freebsd.read(there)
    assert memory.to_be_had == 1230 * 4096
    assert memory.free_and_caches == 1230 * 4096 + 8192
    assert dict(memory.parts())["wire"] == 500 * 4096


def test_runnable_threads_are_read_from_vmtotal() -> None:
    said = "System wide totals:\nProcesses:\t\t(RUNQ: 3 Disk Wait: 0 Page Wait: 0 Sleep: 44)\n"
    assert runnable_on_freebsd(said) == 3 and runnable_on_freebsd("") == 0


def test_rigs_of_namespaces_refuse_other_systems_than_linux(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.network.requirements.sys.platform", "freebsd13")
    (need,) = linux.requirements()
    assert not need.satisfied and "policy-enforcement" in (need.remedy or "")
    with pytest.raises(Unsupported, match="needs Linux: cubenet is made of network namespaces"):
        require_linux()
