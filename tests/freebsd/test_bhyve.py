"""The bhyve driver on a host written from documentation (documented.py): NOT recorded."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.errors import (
    DiskFull,
    GuestDied,
    ImageError,
    NameTaken,
    SandboxError,
    Unsupported,
    UsageError,
)
from harness.host.run import Run
from harness.sandbox.bhyve import BhyveSubstrate, machine
from harness.sandbox.bhyve.substrate import BhyveTemplate
from harness.sandbox.protocol import Sharing, Tier
from tests.freebsd.documented import FAILS, MARK, NAME, STARTS, host, identity, meta, run_in
from tests.freebsd.hosts import Answer, Documented

CACHE = Path("/var/cache/coppice")
Prepare = Callable[..., tuple[BhyveSubstrate, BhyveTemplate]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_in(tmp_path)


def substrate(there: Documented) -> BhyveSubstrate:
    """The documented host, where a suspend creates the files of a checkpoint."""
    return BhyveSubstrate(lambda run: there)


class Written(dict[str, bytes]):
    """Files of the host; the metadata of every checkpoint exists."""

    def __init__(self, memory_mib: int = 256) -> None:
        super().__init__()
        self._memory_mib = memory_mib

    def __missing__(self, path: str) -> bytes:
        if path.endswith(".meta"):
            return meta(self._memory_mib)
        raise KeyError(path)

    def __contains__(self, path: object) -> bool:
        return super().__contains__(path) or str(path).endswith(".meta")


def prepared(there: Documented, run: Run, tier: Tier) -> tuple[BhyveSubstrate, BhyveTemplate]:
    there.files = Written()
    bhyve = substrate(there)
    return bhyve, bhyve.prepare(run, CACHE, tier)


def test_a_full_boot(run: Run) -> None:
    there = host()
    bhyve, template = prepared(there, run, Tier.FULL)
    assert template.checkpoint is None
    guest = bhyve.launch(run, template, Tier.FULL, identity())
    name = f"coppice-{MARK}-000000000005"
    assert there.at(rf"bhyveload -m 256M -c /dev/null -h \S+/stage {name}") < there.at(
        f"start bhyve -H -A -P -u -w -c 1 -m 256M -s 0,hostbridge -s 3,virtio-net,tap0,"
        f"mac=02:c0:0a:4d:00:05 -s 31,lpc -l com1,stdio {name}"
    )
    guest.awaken(10)
    assert guest.resumed_at() == 0.0, "its vCPU has run since its process exists"
    assert guest.first_exec("word").stdout == b"word\n"
    assert (
        there.processes[-1].guest and there.processes[-1].guest.hostname == "sandbox-000000000005"
    )
    guest.touch(1)
    guest.destroy()
    assert there.at(f"bhyvectl --vm={name} --destroy") < there.at("ifconfig tap0 destroy")
    count = len(there.log)
    guest.destroy()
    assert [line for line in there.log[count:] if "tap" in line] == []


def test_a_checkpoint_is_made_once_and_its_manifest_last(run: Run) -> None:
    there = host()
    _, template = prepared(there, run, Tier.DURABLE_POOL)
    assert template.checkpoint
    suspend = there.at(rf"bhyvectl --vm={NAME} --suspend={template.checkpoint.directory}/ram$")
    assert suspend < there.at(r"sha256 -q \S+/ram.kern") < there.at(r"put \S+/manifest.json")
    assert [image.name for image in template.images] == ["guest", "checkpoint"]


@pytest.mark.parametrize("sharing", [None, Sharing.MAPPED, Sharing.PRIVATE])
def test_a_restore_creates_the_machine_at_launch_and_the_guest_on_request(
    sharing: Sharing | None, run: Run
) -> None:
    there = host()
    bhyve, template = prepared(there, run, Tier.DURABLE_POOL)
    begun = len(there.processes)
    guest = bhyve.launch(run, template, Tier.DURABLE_POOL, identity(), sharing)
    assert there.log[-1].endswith("--create") and len(there.processes) == begun
    guest.awaken(10)
    words = there.log[-1]
    assert template.checkpoint and f" -r {template.checkpoint.memory} coppice-" in words
    assert ("-o snapshot.vnode_restore=true" in words) == (sharing is not Sharing.PRIVATE)
    assert guest.resumed_at() > 0
    assert guest.first_exec("word").stdout == b"word\n"
    guest.destroy()
    assert any(f"--vm=coppice-{MARK}-000000000005 --destroy" in line for line in there.log)


@pytest.mark.parametrize("tier", [Tier.PREWARM_POOL, Tier.DURABLE_PREWARM_POOL])
def test_pooled_guests_are_stopped_and_continued_by_signals(tier: Tier, run: Run) -> None:
    there = host()
    bhyve, template = prepared(there, run, tier)
    guest = bhyve.launch(run, template, tier, identity())
    assert there.log[-1] == "signal SIGSTOP"
    guest.awaken(10)
    assert there.log[-1] == "signal SIGCONT"
    assert guest.resumed_at() > 0
    guest.stop()
    guest.destroy()
    assert there.at(f"signal {signal.SIGSTOP.name}")


def test_without_the_patch_guests_have_copies_and_sharing_is_refused(run: Run) -> None:
    there = host(("sysctl -n hw.vmm.vnode_restore", FAILS))
    bhyve, template = prepared(there, run, Tier.DURABLE_POOL)
    assert not template.shares
    guest = bhyve.launch(run, template, Tier.DURABLE_POOL, identity())
    guest.awaken(10)
    assert "vnode_restore" not in there.log[-1]
    guest.destroy()
    with pytest.raises(Unsupported, match="not in this kernel") as refused:
        bhyve.launch(run, template, Tier.DURABLE_POOL, identity(6), Sharing.MAPPED)
    assert "patches/vmm-vnode" in str(refused.value)
    for sharing in (Sharing.MERGED, Sharing.FORKED):
        with pytest.raises(Unsupported):
            bhyve.launch(run, template, Tier.DURABLE_POOL, identity(7), sharing)


@pytest.mark.parametrize(
    ("code", "meaning"),
    [(0, "rebooted"), (1, "powered off"), (2, "halted"), (3, "triple fault"), (4, "error"),
     (134, "signal 6"), (-9, "signal 9"), (70, "unexpected exit code 70"), (None, "still runs")],
)  # fmt: skip
def test_exit_codes_of_bhyve_are_explained(code: int | None, meaning: str) -> None:
    assert meaning in machine.ending(code)


def test_the_end_of_a_guest_is_explained(run: Run) -> None:
    there = host(starts=[(STARTS[0][0], 3)])
    bhyve, template = prepared(host(), run, Tier.FULL)
    template = BhyveTemplate(there, template.shape, template.image, None, True)
    guest = bhyve.launch(run, template, Tier.FULL, identity())
    with pytest.raises(GuestDied, match="triple fault: vm exit: it was told so"):
        guest.awaken(5)
    guest.destroy()


def test_a_restore_that_aborts_leaves_nothing(run: Run) -> None:
    """As on stock 13.2 on AMD."""
    there = host()
    bhyve, template = prepared(there, run, Tier.DURABLE_PREWARM_POOL)
    there.starts = [(STARTS[0][0], 134)]
    with pytest.raises(GuestDied, match="killed by signal 6"):
        bhyve.launch(run, template, Tier.DURABLE_PREWARM_POOL, identity())
    assert there.log[-2:] == [
        f"bhyvectl --vm=coppice-{MARK}-000000000005 --destroy", "ifconfig tap0 destroy",
    ]  # fmt: skip


# A Linux guest.

ROM = "/usr/local/share/uefi-firmware/BHYVE_UEFI.fd"


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPPICE_KERNEL", "/images/vmlinuz")
    monkeypatch.setenv("COPPICE_INITRAMFS", "/images/initramfs")


def with_files(*first: tuple[str, Answer]) -> Documented:
    files = "/images/vmlinuz /images/initramfs"
    return host(
        *first,
        ("head -c 2 /images/vmlinuz", Answer("MZ")),
        (f"stat -f %z {files}", Answer("14186432\n2593248\n")),
    )


@pytest.mark.usefixtures("linux")
def test_a_linux_guest_boots_from_a_disk_by_a_bootrom(run: Run) -> None:
    there = with_files()
    bhyve, template = prepared(there, run, Tier.FULL)
    disk = template.image.directory + "/disk"
    assert there.at("cp /images/vmlinuz .*/vmlinuz.efi") < there.at(
        r"makefs -t msdos -s 36m -o fat_type=16 \S+/disk \S+/files"
    )
    script = there.stdins["startup.nsh"]
    assert script.startswith("fs0:\r\nvmlinuz.efi initrd=\\initramfs ")
    assert script.endswith(" coppice.line=ttyS0\r\n") and "rdinit=/init" in script
    guest = bhyve.launch(run, template, Tier.FULL, identity())
    name = f"coppice-{MARK}-000000000005"
    # It is created first: bhyve would use an existing virtual machine of that name.
    assert there.at(f"bhyvectl --vm={name} --create") < there.at(
        f"start bhyve -H -A -P -u -w -c 1 -m 256M -s 0,hostbridge -s 2,virtio-blk,{disk},ro "
        f"-s 3,virtio-net,tap0,mac=02:c0:0a:4d:00:05 -s 31,lpc -l com1,stdio "
        f"-l bootrom,{ROM} {name}"
    )
    assert not any(line.startswith("bhyveload") for line in there.log)
    guest.awaken(10)
    assert guest.first_exec("word").stdout == b"word\n"
    guest.destroy()


@pytest.mark.usefixtures("linux")
def test_a_linux_guest_is_restored_with_what_it_booted_from(run: Run) -> None:
    there = with_files()
    bhyve, template = prepared(there, run, Tier.DURABLE_POOL)
    guest = bhyve.launch(run, template, Tier.DURABLE_POOL, identity())
    guest.awaken(10)
    words = there.log[-1]
    assert f"-s 2,virtio-blk,{template.image.directory}/disk,ro" in words
    assert f"-l bootrom,{ROM} -o snapshot.vnode_restore=true -r " in words
    guest.destroy()


@pytest.mark.usefixtures("linux")
def test_a_linux_guest_needs_a_bootrom_a_kernel_that_it_starts_and_no_loader(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unsupported, match="a bootrom") as refused:
        prepared(with_files((f"test -r {ROM}", FAILS)), run, Tier.FULL)
    assert refused.value.hint == "pkg install -y edk2-bhyve"
    prepared(with_files(("which bhyveload", FAILS)), run, Tier.FULL)
    elf = with_files(("head -c 2 /images/vmlinuz", Answer("\x7fE")))
    with pytest.raises(ImageError, match="has no EFI stub"):
        prepared(elf, run, Tier.FULL)
    monkeypatch.delenv("COPPICE_KERNEL")
    with pytest.raises(UsageError, match="COPPICE_INITRAMFS is set, but COPPICE_KERNEL is not"):
        prepared(with_files(), run, Tier.FULL)


# Bad input.


def test_a_host_without_vmm(run: Run) -> None:
    there = host(("kldstat -q -m vmm", FAILS))
    with pytest.raises(Unsupported, match="vmm; not loaded") as refused:
        prepared(there, run, Tier.FULL)
    assert refused.value.hint == "kldload vmm" and refused.value.exit_code == 69


def test_a_loaded_module_that_refuses_the_processor_is_found_by_trying(run: Run) -> None:
    """kldload exits with 0 and kldstat lists the module nevertheless."""
    there = host(
        (r"bhyvectl --vm=coppice-\*-doctor --create", Answer("", 1, "vm_create: Device not conf")),
        ("sh -c dmesg .*", Answer("SVM: missing NRIP save feature\n")),
        ("sysctl -n hw.vmm.create", FAILS),
    )
    with pytest.raises(Unsupported, match="but does not work: SVM: missing NRIP"):
        prepared(there, run, Tier.FULL)


@pytest.mark.parametrize(
    ("command", "answer", "why"),
    [
        ("bhyvectl --help", Answer("", 1, "Usage: [--create]\n"), "has no option --suspend"),
        ("bhyve -h", Answer("", 0, "  -p: pin\n"), "has no option -r"),
        ("sysctl -n kern.conftxt", Answer("options\tSMP\n"), "built without it"),
    ],
)
def test_only_durable_tiers_need_snapshots(
    command: str, answer: Answer, why: str, run: Run
) -> None:
    there = host((command, answer))
    prepared(there, run, Tier.FULL)
    with pytest.raises(Unsupported, match=why) as refused:
        prepared(there, run, Tier.DURABLE_POOL)
    assert "BHYVE_SNAPSHOT" in (refused.value.hint or "")


@pytest.mark.parametrize("tier", [Tier.FULL, Tier.DURABLE_POOL])
@pytest.mark.parametrize("system", ["FreeBSD", "Linux"])
def test_a_stale_entry_in_dev_vmm_is_refused(
    tier: Tier, system: str, run: Run, request: pytest.FixtureRequest
) -> None:
    """bhyveload, and bhyve with a bootrom, would use it."""
    if system == "Linux":
        request.getfixturevalue("linux")
    there = with_files()
    bhyve, template = prepared(there, run, tier)
    there.answers = [
        (rf"bhyvectl --vm={NAME} --create", Answer("", 255)),
        *there.answers,
    ]
    there.files[f"/dev/vmm/{run.object_name(identity().id)}"] = b""
    count = len(there.log)
    with pytest.raises(NameTaken, match="exists already") as taken:
        bhyve.launch(run, template, tier, identity())
    assert "coppice clean" in str(taken.value)
    after = "\n".join(there.log[count:])
    for touched in ("--destroy", "bhyveload", "start bhyve"):
        assert touched not in after, "it may belong to another process"


def test_a_disk_that_fills_up_while_suspending_leaves_no_checkpoint(run: Run) -> None:
    no_room = Answer("", 1, "suspend: No space left on device")
    there = host((rf"bhyvectl --vm={NAME} --suspend=\S+", no_room))
    with pytest.raises(DiskFull):
        prepared(there, run, Tier.DURABLE_POOL)
    assert re_removed(there)


def test_a_suspend_that_writes_nothing_is_no_checkpoint(run: Run) -> None:
    there = host((r"test -s \S+/ram.kern", FAILS))
    with pytest.raises(SandboxError, match=r"ram\.kern is missing"):
        prepared(there, run, Tier.DURABLE_POOL)
    assert re_removed(there)


def re_removed(there: Documented) -> bool:
    """Whether the checkpoint's directory and the guest were removed."""
    return there.at(rf"rm -rf {CACHE}/bhyve/\S+$") > there.at(rf"bhyvectl --vm={NAME} --destroy")


def test_an_agent_that_does_not_compile_is_reported(run: Run) -> None:
    there = host(("cc -static .*", Answer("", 1, "error: no")))
    with pytest.raises(ImageError, match="cannot compile the agent"):
        prepared(there, run, Tier.FULL)


def test_other_systems_get_a_remedy(run: Run) -> None:
    there = host(("uname -s", Answer("Linux\n")))
    (need,) = substrate(there).requirements()
    assert not need.satisfied and "COPPICE_HOST=ssh://" in (need.remedy or "")
    with pytest.raises(Unsupported, match="FreeBSD host"):
        prepared(there, run, Tier.FULL)


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("COPPICE_GUEST_AGENT", "COPPICE_KERNEL", "COPPICE_INITRAMFS"):
        monkeypatch.delenv(name, raising=False)
    yield
