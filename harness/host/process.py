"""Programs for set-up: run one, say clearly what went wrong. Nothing here is on a timed path."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
from pathlib import Path

import sh

from harness import command_log, paths
from harness.errors import CoppiceError, MissingTool
from harness.host import package_names


def install_command(program: str) -> str:
    """The command that brings a program on this host's release of Debian or Ubuntu."""
    return install_packages(package_names.package(program))


def install_packages(*packages: str) -> str:
    """The command that installs packages."""
    return f"apt-get install {' '.join(packages)}   (or: {paths.front_door('setup')})"


def need(program: str) -> str:
    """The path of a program; MissingTool says how to get it."""
    path = shutil.which(program)
    if path is None:
        raise MissingTool(f"{program} is not installed", hint=install_command(program))
    return path


def run(program: str, *arguments: str | Path, cwd: Path | None = None) -> bytes:
    """Run a program to its end; its stdout. CoppiceError carries the command and its stderr."""
    command = sh.Command(need(program))
    words = [str(argument) for argument in arguments]
    try:
        with command_log.announced([program, *words], str(cwd) if cwd else None):
            result = command(*words, _return_cmd=True, _tty_out=False, _cwd=str(cwd or Path.cwd()))
    except sh.ErrorReturnCode as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        said = " | ".join(lines[-3:]) or "no message"
        raise CoppiceError(f"{error.full_cmd} ended with {error.exit_code}: {said}") from error
    output: bytes = result.stdout
    return output


def kill(pid: int, patience_s: float) -> None:
    """Kill a process that may be another's child, and wait until it has ended.

    Its parent may take note of that much later: a process that has ended holds nothing.
    """
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], patience_s)
        finally:
            os.close(handle)
