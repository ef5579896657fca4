"""Runs programs for set-up, with clear errors. Not for timed paths."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import sh

from harness import command_log, paths
from harness.errors import CoppiceError, MissingTool
from harness.host import package_names


def install_command(program: str) -> str:
    """The command that installs a program on this host's release of Debian or Ubuntu."""
    return install_packages(package_names.package(program))


def install_packages(*packages: str) -> str:
    """The command that installs these packages."""
    return f"apt-get install {' '.join(packages)}   (or: {paths.front_door('setup')})"


def need(program: str) -> str:
    """The path of a program. MissingTool says how to install it."""
    path = shutil.which(program)
    if path is None:
        raise MissingTool(f"{program} is not installed", hint=install_command(program))
    return path


def run(program: str, *arguments: str | Path, cwd: Path | None = None) -> bytes:
    """Run a program and return its stdout.

    Raises MissingTool, or CoppiceError with the command and the end of its stderr. When it is
    interrupted, the program and what that has started end first.
    """
    command = sh.Command(need(program))
    argv = [str(argument) for argument in arguments]
    try:
        with command_log.announced([program, *argv], str(cwd) if cwd else None):
            result = command(
                *argv, _bg=True, _bg_exc=False, _new_group=True, _tty_out=False,
                _cwd=str(cwd or Path.cwd()),
            )  # fmt: skip
            with _ended_if_interrupted(result):
                result.wait()
    except sh.ErrorReturnCode as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        message = " | ".join(lines[-3:]) or "no message"
        raise CoppiceError(f"{error.full_cmd} exited with {error.exit_code}: {message}") from error
    output: bytes = result.stdout
    return output


@contextlib.contextmanager
def _ended_if_interrupted(program: sh.RunningCommand) -> Iterator[None]:
    """End a program's whole group when waiting for it is interrupted."""
    try:
        yield
    except sh.ErrorReturnCode:
        raise
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            program.kill_group()
        with contextlib.suppress(sh.ErrorReturnCode):
            program.wait()
        raise


def kill(pid: int, patience_s: float) -> None:
    """Kill a process, which need not be a child, and wait up to `patience_s` until it has ended.

    Its parent may reap it much later; by then it holds no resources.
    """
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], patience_s)
        finally:
            os.close(handle)
