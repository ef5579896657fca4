"""The traditional VM: QEMU's q35 with firmware, a disk, the distribution's generic kernel, and
systemd up to a login prompt. The agent is a systemd service that starts after the prompt."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.guest import image, rootfs, shared_agent
from harness.host import evidence, package_names
from harness.host.cache import entry
from harness.host.identity import Identity
from harness.host.process import run as run_program
from harness.host.run import Run
from harness.measure.record import Image, digest
from harness.sandbox.base import MIB
from harness.sandbox.oci.roots import copy
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu.accelerator import choose
from harness.sandbox.qemu.machine import PROGRAM
from harness.sandbox.reference.base import ReferenceSubstrate, ReferenceTemplate
from harness.sandbox.shared_kernel import Log, SharedSandbox, reap

PACKAGES = ("kmod", "login", "systemd-sysv", "udev", package_names.generic_kernel())
MEMORY_MIB = 512
DISK_MIB = 1536
BOOT_LIMIT_S = 600.0
EMULATED_CPU = "max"
"""All that TCG has, where COPPICE_CPU names no model: what a user of this VM gets."""
PORT = "coppice"
SERVICE = f"""\
[Unit]
Description=The harness's agent
After=getty.target serial-getty@ttyS0.service systemd-user-sessions.service

[Service]
Environment=COPPICE_LINE=/dev/virtio-ports/{PORT}
ExecStart=/usr/local/sbin/agent
Restart=always
RestartSec=100ms

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class VmTemplate(ReferenceTemplate):
    """`directory` has the disk, the kernel and the initramfs; `cpu` is the processor's model."""

    directory: Path = Path()
    cpu: str = ""

    @property
    def images(self) -> Sequence[Image]:
        disk = Image(
            "vm-disk",
            (self.directory / "sha256").read_text(encoding="utf-8"),
            dict(self.root.built_from),
        )
        return [disk, shared_agent.as_record(self.agent)]


class VmSubstrate(ReferenceSubstrate):
    name = "vm"
    own_kernel = True
    boot_cpu_s = 40.0
    programs = (PROGRAM, "debootstrap", "mkfs.ext4")
    tools = (PROGRAM,)
    memory_each = (MEMORY_MIB + 128) * MIB

    def prepare(self, run: Run, cache: Path, tier: Tier) -> VmTemplate:
        """Builds the disk the first time, which takes minutes."""
        self.check()
        chosen = choose(run, cache, image.build(cache))
        root, agent = rootfs.debian(cache, PACKAGES), shared_agent.build(cache)
        disk = _disk(cache, root.path, root.sha256, agent)
        return VmTemplate(root, agent, chosen.name, disk, chosen.shape.cpu or EMULATED_CPU)

    def start(
        self, run: Run, template: ReferenceTemplate, identity: Identity, undo: contextlib.ExitStack
    ) -> SharedSandbox:
        assert isinstance(template, VmTemplate)
        directory = template.directory
        log = Log(run, f"vm-{identity.id}")
        undo.callback(log.close)
        console = run.directory / f"vm-{identity.id}.console"
        undo.callback(evidence.drop, console)
        line, far = socket.socketpair()
        undo.callback(line.close)
        with far:
            child = subprocess.Popen(
                [
                    PROGRAM, "-name", f"coppice-{identity.id}", "-nodefaults", "-no-user-config",
                    "-display", "none", "-machine", "q35", "-accel", template.accelerator or "tcg",
                    "-cpu", template.cpu, "-m", f"{MEMORY_MIB}M",
                    # snapshot=on: writes go to a temporary file, so the disk stays unchanged.
                    "-drive", f"file={_plain(directory / 'disk')},format=raw,if=virtio,snapshot=on",
                    "-kernel", directory / "kernel", "-initrd", directory / "initramfs", "-append",
                    "root=/dev/vda rw console=ttyS0 panic=-1 "
                    f"systemd.hostname={identity.hostname} "
                    f"systemd.machine_id={identity.machine_id}",
                    "-chardev", f"file,id=console,path={_plain(console)}",
                    "-serial", "chardev:console", "-no-reboot",
                    "-chardev", f"socket,id=agent,fd={far.fileno()}", "-device", "virtio-serial",
                    "-device", f"virtserialport,chardev=agent,name={PORT}",
                ],
                stdin=subprocess.DEVNULL, stdout=log.descriptor, stderr=log.descriptor,
                pass_fds=[far.fileno()], start_new_session=True,
                env={**run.environment, "TMPDIR": os.fspath(run.directory)},
            )  # fmt: skip
        undo.callback(reap, child)
        undo.callback(child.kill)
        end = undo.pop_all()
        # Its key stays buffered in the port until the agent starts; `awaken` waits for that.
        sandbox = SharedSandbox(
            identity, line, end.close, output=log.tail,
            restore=lambda: sandbox.agent.wait_for_start(BOOT_LIMIT_S),
        )  # fmt: skip
        return sandbox


def _plain(path: Path) -> str:
    """A path as part of a QEMU option: commas are doubled."""
    return os.fspath(path).replace(",", ",,")


def _disk(cache: Path, root: Path, sha256: str, agent: Path) -> Path:
    """The directory of a disk with this root and the agent as a service."""
    parts = hashlib.sha256(" ".join((sha256, digest(agent), SERVICE)).encode()).hexdigest()
    target = cache / "disks" / parts

    def fill(directory: Path) -> None:
        tree = directory / "tree"
        copy(root, tree)
        unit = "etc/systemd/system/coppice-agent.service"
        (tree / unit).write_text(SERVICE, encoding="utf-8")
        wants = tree / "etc/systemd/system/multi-user.target.wants"
        wants.mkdir(exist_ok=True)
        (wants / "coppice-agent.service").symlink_to(f"/{unit}")
        shutil.copy(agent, tree / "usr/local/sbin/agent")
        for name, pattern in (("kernel", "vmlinuz-*"), ("initramfs", "initrd.img-*")):
            (found,) = (tree / "boot").glob(pattern)
            shutil.move(found, directory / name)
        with (directory / "disk").open("wb") as disk:
            disk.truncate(DISK_MIB * MIB)
        run_program("mkfs.ext4", "-q", "-F", "-d", tree, directory / "disk")
        shutil.rmtree(tree)
        (directory / "sha256").write_text(digest(directory / "disk"), encoding="utf-8")

    return entry(target, fill)
