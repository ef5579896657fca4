"""runc: starts the process of a bundle, and takes down what is left of one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from harness.errors import SandboxError
from harness.host.process import need
from harness.host.run import Run
from harness.sandbox.shared_kernel import Log, start

PROGRAM = "runc"
CONFIG = "config.json"
DELETE_LIMIT_S = 10.0


@dataclass(frozen=True)
class Runc:
    """The containers of one run; runc keeps what it knows of them in `state`."""

    program: str
    state: Path
    environment: Mapping[str, str]

    @classmethod
    def of(cls, run: Run) -> Runc:
        """MissingTool where there is no runc."""
        # It lives for some tens of milliseconds: collecting garbage is a twentieth of them.
        environment = {**run.environment, "GOGC": "off"}
        return cls(need(PROGRAM), run.directory / "runc", environment)

    def argv(self, command: str, *arguments: str | Path) -> list[str]:
        return [self.program, "--root", str(self.state), command, *map(str, arguments)]

    def write(self, directory: Path, config: Mapping[str, Any]) -> None:
        """Make a directory a bundle."""
        (directory / CONFIG).write_text(json.dumps(config))

    def begin(
        self, directory: Path, id: str, pid_file: Path, log: Log
    ) -> tuple[subprocess.Popen[bytes], socket.socket, TextIO]:
        """Start a container whose bundle is still to be made.

        Returns runc, which ends when the container runs; our end of its first process's line; and
        where its configuration goes as JSON, once all that it names is there. For some milliseconds
        runc does nothing but become a process: meanwhile a bundle is made.
        """
        reading, writing = os.pipe()
        into = os.fdopen(writing, "w")
        try:
            (directory / CONFIG).symlink_to(f"/proc/self/fd/{reading}")
            # All sandboxes' keyrings would be one user's, who may have few; none may use any.
            argv = self.argv(
                "run", "--detach", "--no-new-keyring", "--bundle", directory,
                "--pid-file", pid_file, id,
            )  # fmt: skip
            return *start(argv, self.environment, log, [reading]), into
        except BaseException:
            into.close()
            raise
        finally:
            os.close(reading)

    def delete(self, id: str, pid: int | None) -> None:
        """End a container and what runc knows of it. Never hangs: after ten seconds its processes
        are killed and its state removed without runc."""
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with subprocess.Popen(
            self.argv("delete", "--force", id),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as child:
            try:
                child.wait(DELETE_LIMIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
        shutil.rmtree(self.state / id, ignore_errors=True)


def read_pid(pid_file: Path, said: str) -> int:
    """The id of a container's first process, as runc has written it."""
    try:
        return int(pid_file.read_text())
    except (OSError, ValueError) as error:
        raise SandboxError(f"runc started nothing{f': {said}' if said else ''}") from error
