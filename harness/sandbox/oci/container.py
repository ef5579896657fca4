"""One container from its bundle to its end; its first process is the caller's choice."""

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
from harness.host.identity import Identity
from harness.host.run import VARIABLE, Run
from harness.measure.record import Image
from harness.network.cubenet import Cubenet
from harness.sandbox.oci import config, roots
from harness.sandbox.oci.config import Limits
from harness.sandbox.oci.runc import Runc, init_of
from harness.sandbox.shared_kernel import Hold, Log, Signals, ended

ROOT, UPPER, WRITES, DISK, PID_FILE = "root", "upper", "writes", "disk.ext4", "pid"


@dataclass(frozen=True)
class OciTemplate:
    """What containers are made of. `lower` is the root as sandboxes' users own it; `net` is where
    they are attached, if the shape has a network."""

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

    def hold_of(self, id: str, pid: int) -> Hold:
        """What stops the processes of one."""
        return self.cgroups.freezer(f"{self.group}/{id}") or Signals(pid)


@dataclass(frozen=True)
class Container:
    """`line` is our end of its first process's standard input and output."""

    pid: int
    line: socket.socket
    log: Log


def begin(
    run: Run, template: OciTemplate, identity: Identity, limits: Limits, *,
    overlay: bool, upper: Path | None = None, disk: Path | None = None,
) -> Container:  # fmt: skip
    """A container whose first process was started; `take_down` ends it.

    Of an overlay, `upper` is what another one wrote into its root, which this one's begins with,
    and `disk` an image of an empty file system that bounds what it may write; each has a copy.
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
        runc, line, configuration = template.runc.begin(directory, id, pid_file, log)
        undo.callback(ended, runc)
        undo.callback(line.close)
        undo.callback(configuration.close)  # without one it ends
        root = directory / ROOT
        if overlay:
            writes = directory
            if disk:
                writes = directory / WRITES
                roots.mount_copy(disk, directory / DISK, writes)
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
            raise GuestDied(f"runc did not start {id}: {log.said() or runc.returncode}")
        pids.append(init_of(pid_file, log.said()))
        undo.pop_all()
    return Container(pids[0], line, log)


def written(template: OciTemplate, id: str) -> Path:
    """The directory of what an overlay's container has written into its root."""
    directory = template.directory / id
    return (directory / WRITES if (directory / WRITES).is_dir() else directory) / UPPER


def take_down(run: Run, template: OciTemplate, id: str, pid: int | None) -> None:
    """End a container and remove what it had, as far as it came; safe to call twice."""
    with contextlib.ExitStack() as each:  # whatever fails, the rest is done
        directory = template.directory / id
        each.callback(shutil.rmtree, directory, ignore_errors=True)
        each.callback(evidence.drop, run.directory / f"oci-{id}.log")
        each.callback(roots.unmount, directory / WRITES)
        each.callback(roots.unmount, directory / ROOT)
        each.callback(template.cgroups.remove, f"{template.group}/{id}")
        each.callback(template.runc.delete, id, pid)
        if template.net:
            with contextlib.suppress(SandboxGone):  # it had not come so far
                template.net.detach(id)
