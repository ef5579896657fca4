"""runc: starts the process of a bundle, and deletes containers."""

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
    """runc for the containers of one run, with its state directory."""

    program: str
    state: Path
    environment: Mapping[str, str]

    @classmethod
    def of(cls, run: Run) -> Runc:
        """Raises MissingTool where runc is not installed."""
        # runc lives for some tens of milliseconds, a twentieth of which is garbage collection.
        environment = {**run.environment, "GOGC": "off"}
        return cls(need(PROGRAM), run.directory / "runc", environment)

    def argv(self, command: str, *arguments: str | Path) -> list[str]:
        return [self.program, "--root", str(self.state), command, *map(str, arguments)]

    def write(self, directory: Path, config: Mapping[str, Any]) -> None:
        """Write config.json into a bundle's directory."""
        (directory / CONFIG).write_text(json.dumps(config), encoding="utf-8")

    def begin(
        self, directory: Path, id: str, pid_file: Path, log: Log
    ) -> tuple[subprocess.Popen[bytes], socket.socket, TextIO]:
        """Start a container before its bundle is complete, since runc needs milliseconds to start.

        Returns runc, which exits when the container runs; a socket that is its first process's
        stdin and stdout; and a file that takes the configuration as JSON once the bundle is
        complete.
        """
        reading, writing = os.pipe()
        into = os.fdopen(writing, "w", encoding="utf-8")
        try:
            (directory / CONFIG).symlink_to(f"/proc/self/fd/{reading}")
            # All keyrings would belong to one user, who may have few; sandboxes cannot use them.
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
        """Kill a container and delete runc's state of it. Bounded in time: after DELETE_LIMIT_S
        runc is killed and the state removed without it."""
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


def read_pid(pid_file: Path, output: str) -> int:
    """The PID of a container's first process, which runc wrote to a file."""
    try:
        return int(pid_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SandboxError(f"runc started no process{f': {output}' if output else ''}") from error
