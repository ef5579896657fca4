"""gVisor: a kernel in a process (runsc), on its ptrace platform, which needs no KVM.

In the durable tier every request restores a checkpoint of a started sandbox.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from harness.errors import CheckpointError, GuestDied
from harness.host.cache import entry
from harness.host.identity import Identity, allocate
from harness.host.process import kill, need
from harness.host.run import Run
from harness.measure.record import digest
from harness.sandbox.base import MIB, SEAL
from harness.sandbox.oci.roots import copy
from harness.sandbox.protocol import Compared, Tier
from harness.sandbox.reference.base import ReferenceSubstrate, ReferenceTemplate, run_mark
from harness.sandbox.shared_kernel import START_LIMIT_S, Log, SharedSandbox

INSIDE = ".agent"
PATIENCE_S = 10.0


@dataclass(frozen=True)
class GvisorTemplate(ReferenceTemplate):
    """`checkpoint` is the directory of the saved sandbox, if the tier restores one."""

    checkpoint: Path | None = None


class GvisorSubstrate(ReferenceSubstrate):
    name = "gvisor"
    own_kernel = True
    tiers = (Tier.FULL, Tier.DURABLE_POOL)
    compared = Compared((Tier.FULL, Tier.DURABLE_POOL))
    programs = tools = ("runsc",)
    memory_each = 96 * MIB

    def argv(self, run: Run, command: str, *arguments: str | Path) -> list[str]:
        return [
            need("runsc"), "--root", os.fspath(run.directory / "runsc"), "--platform=ptrace",
            "--network=none", "--ignore-cgroups", "--overlay2=root:memory",
            command, *map(str, arguments),
        ]  # fmt: skip

    def prepare(self, run: Run, cache: Path, tier: Tier) -> ReferenceTemplate:
        plain = super().prepare(run, cache, tier)
        # The agent is copied into a root of the run: mounting it would change the shared root.
        root = run.directory / "gvisor-root"
        if not root.exists():
            copy(plain.root.path, root)
            shutil.copy(plain.agent, root / INSIDE)
        template = GvisorTemplate(replace(plain.root, path=root), plain.agent)
        if not tier.restores:
            return template
        return replace(template, checkpoint=self._checkpoint(run, cache, template))

    def _checkpoint(self, run: Run, cache: Path, template: GvisorTemplate) -> Path:
        """The directory of a sandbox that was saved after it had worked; it survives a reboot."""
        parts = (template.root.sha256, digest(template.agent), digest(Path(need("runsc"))))
        target = cache / "checkpoints-gvisor" / hashlib.sha256(" ".join(parts).encode()).hexdigest()

        def save(directory: Path) -> None:
            sandbox = self.launch(run, template, Tier.FULL, allocate(run.leases, run.id))
            try:
                sandbox.awaken(START_LIMIT_S)
                sandbox.first_exec("rehearsal")
                sandbox.agent.write_file(SEAL, b"")
                self._save(run, sandbox.id, directory)
            finally:
                sandbox.destroy()

        return entry(target, save)

    def _save(self, run: Run, id: str, directory: Path) -> None:
        done = subprocess.run(
            self.argv(run, "checkpoint", "--image-path", directory, id),
            env=run.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        encoding="utf-8", errors="replace")  # fmt: skip
        if done.returncode:
            raise CheckpointError(f"runsc cannot save a sandbox: {done.stderr.strip()}")

    def start(
        self, run: Run, template: ReferenceTemplate, identity: Identity, undo: contextlib.ExitStack
    ) -> SharedSandbox:
        id = identity.id
        directory = run.directory / f"gvisor-{id}"
        directory.mkdir()
        undo.callback(shutil.rmtree, directory, ignore_errors=True)
        (directory / "config.json").write_text(
            json.dumps(_config(run, template, identity)), encoding="utf-8"
        )
        log = Log(run, f"gvisor-{id}")
        undo.callback(log.close)
        undo.callback(_end, run, directory, id)
        line, far = socket.socketpair()
        undo.callback(line.close)
        undo.callback(far.close)
        checkpoint = template.checkpoint if isinstance(template, GvisorTemplate) else None
        how = ["restore", "--image-path", os.fspath(checkpoint)] if checkpoint else ["run"]

        def begin() -> None:
            """Run or restore it; both return when its first process exists."""
            argv = self.argv(
                run, *how, "--detach", "--pid-file", directory / "pid", "--bundle", directory, id
            )
            with far:
                code = subprocess.call(
                    argv, env=run.environment, stdin=far.fileno(), stdout=far.fileno(),
                    stderr=log.descriptor,
                )  # fmt: skip
            if code:
                raise GuestDied(f"runsc did not {how[0]} {id}: {log.tail() or code}")

        if not checkpoint:
            begin()
        end = undo.pop_all()
        return SharedSandbox(
            identity, line, end.close, output=log.tail, restore=begin if checkpoint else None
        )


def _end(run: Run, directory: Path, id: str) -> None:
    """Kill a sandbox and delete runsc's state of it: `runsc delete` takes two seconds."""
    known = list((run.directory / "runsc").glob(f"*{id}*"))  # also a socket since 2024
    pids: list[int] = []
    with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
        pids.append(int((directory / "pid").read_text(encoding="utf-8")))
        pids += [
            child.pid for child in psutil.Process(pids[0]).children(recursive=True)
        ]  # it traces
    for path in known:
        with contextlib.suppress(OSError, ValueError, KeyError):
            pids.append(json.loads(path.read_text(encoding="utf-8"))["goferPid"])
    for pid in pids:
        kill(pid, PATIENCE_S)
    for path in known:
        path.unlink(missing_ok=True)


def _config(run: Run, template: ReferenceTemplate, identity: Identity) -> dict[str, Any]:
    plain = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2",
        "hostname": identity.hostname,
        "root": {"path": os.fspath(template.root.path), "readonly": False},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": [f"/{INSIDE}"],
            "env": [f"{name}={value}" for name, value in run_mark(run).items()],
            "cwd": "/",
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": plain},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": plain},
        ],
        "linux": {"namespaces": [{"type": name} for name in ("pid", "ipc", "uts", "mount")]},
    }
