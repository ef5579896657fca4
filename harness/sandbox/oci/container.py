"""One container, from its bundle to its end; the caller chooses its first process."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import GuestDied, SandboxGone
from harness.guest import shared_agent
from harness.guest.rootfs import RootFs
from harness.host import evidence
from harness.host.cgroups import Cgroups
from harness.host.disk_place import DiskPlace
from harness.host.identity import Identity
from harness.host.run import VARIABLE, Run
from harness.measure.record import Image
from harness.network.cubenet import Cubenet
from harness.sandbox.oci import config, roots
from harness.sandbox.oci.config import Limits
from harness.sandbox.oci.runc import Runc, read_pid
from harness.sandbox.shared_kernel import Log, ProcessFreezer, SignalFreezer, reap

ROOT, UPPER, WRITES, DISK, PID_FILE = "root", "upper", "writes", "disk.ext4", "pid"


@dataclass(frozen=True)
class OciTemplate:
    """What containers are made from. `lower` is the root with its owners shifted to the UIDs of
    sandboxes; `net` is their network, if the shape has one."""

    runc: Runc
    root: RootFs
    lower: Path
    agent: Path
    cgroups: Cgroups
    group: str
    directory: Path
    net: Cubenet | None
    accelerator: str | None = None

    @property
    def images(self) -> Sequence[Image]:
        return [self.root.as_record(), shared_agent.as_record(self.agent)]

    def freezer_of(self, id: str, pid: int) -> ProcessFreezer:
        """What freezes the processes of a container."""
        return self.cgroups.freezer(f"{self.group}/{id}") or SignalFreezer(pid)


@dataclass(frozen=True)
class Disk:
    """An image of an empty file system, and the place of the copies that containers write to."""

    image: Path
    place: DiskPlace

    def copy(self, directory: Path, id: str) -> Path:
        """A container's own image, with its room reserved; a link in `directory` leads to it.
        Raises DiskFull."""
        self.place.require_room()
        own = self.place.directory / f"disk-{id}.ext4"
        (directory / DISK).symlink_to(own)
        roots.copy_image(self.image, own)
        # With less than a whole disk nothing is reserved: where a file system will write first
        # in its image is not known.
        if self.place.reserved >= self.image.stat().st_size:
            self.place.reserve(own)
        return own


@dataclass(frozen=True)
class Container:
    """`channel` is the other end of its first process's stdin and stdout."""

    pid: int
    channel: socket.socket
    log: Log


def begin(
    run: Run, template: OciTemplate, identity: Identity, limits: Limits, *,
    overlay: bool, upper: Path | None = None, disk: Disk | None = None,
) -> Container:  # fmt: skip
    """A container whose first process has been started; `take_down` ends it.

    With an overlay, `upper` is the upper directory of another container to start from, and `disk`
    limits what the container writes; both are copied.
    """
    config.check(identity)
    id = identity.id
    directory = template.directory / id
    with contextlib.ExitStack() as undo:
        directory.mkdir()
        pids: list[int] = []
        undo.callback(lambda: take_down(run, template, id, *pids[:1] or (None,)))
        log = Log(run, f"oci-{id}")
        undo.callback(log.close)
        pid_file = directory / PID_FILE
        runc, channel, configuration = template.runc.begin(directory, id, pid_file, log)
        undo.callback(reap, runc)
        undo.callback(channel.close)
        undo.callback(configuration.close)  # runc exits when this pipe closes
        root = directory / ROOT
        if overlay:
            writes = directory
            if disk:
                writes = directory / WRITES
                roots.mount_image(disk.copy(directory, id), writes)
            roots.lay_over(template.lower, writes, root, identity, upper)
        else:
            roots.copy(template.lower, root)
            roots.name(root, identity)
        environment = {VARIABLE: run.environment[VARIABLE]}
        bundle = config.bundle(
            identity, root, limits, template.cgroups.unlimited, f"{template.group}/{id}",
            environment,
        )  # fmt: skip
        with contextlib.suppress(BrokenPipeError), configuration:
            configuration.write(json.dumps(bundle))
        if runc.wait():
            raise GuestDied(f"runc did not start {id}: {log.tail() or runc.returncode}")
        pids.append(read_pid(pid_file, log.tail()))
        undo.pop_all()
    return Container(pids[0], channel, log)


def written(template: OciTemplate, id: str) -> Path:
    """The upper directory of a container with an overlay: what it has written into its root."""
    directory = template.directory / id
    return (directory / WRITES if (directory / WRITES).is_dir() else directory) / UPPER


def _remove_disk(link: Path) -> None:
    with contextlib.suppress(OSError):
        link.readlink().unlink()


def take_down(run: Run, template: OciTemplate, id: str, pid: int | None) -> None:
    """End a container and remove everything of it, started or not; may be called twice."""
    with contextlib.ExitStack() as each:  # a failure does not skip the rest
        directory = template.directory / id
        each.callback(shutil.rmtree, directory, ignore_errors=True)
        each.callback(_remove_disk, directory / DISK)
        each.callback(evidence.drop, run.directory / f"oci-{id}.log")
        each.callback(roots.unmount, directory / WRITES)
        each.callback(roots.unmount, directory / ROOT)
        each.callback(template.cgroups.remove, f"{template.group}/{id}")
        each.callback(template.runc.delete, id, pid)
        if template.net:
            with contextlib.suppress(SandboxGone):  # it was not attached yet
                template.net.detach(id)
