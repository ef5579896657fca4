"""`runc run` of an echo in the same bundle that sandboxes have: what a user can do by hand."""

from __future__ import annotations

import shutil
import subprocess
import time

from harness.errors import SandboxError
from harness.host.identity import allocate
from harness.host.run import Run
from harness.sandbox.base import ECHO
from harness.sandbox.oci import config, roots
from harness.sandbox.oci.substrate import OciSubstrate, OciTemplate

LIMIT_S = 60.0


def run_echo(run: Run, substrate: OciSubstrate, template: OciTemplate, word: str) -> float:
    """Seconds from runc's start to its end; it must have printed the word.

    The bundle is made before and removed afterwards. SandboxError for any other output.
    """
    identity = allocate(run.leases, run.id)
    directory = template.directory / identity.id
    try:
        directory.mkdir()
        roots.lay_over(template.lower, directory, directory / "root", identity)
        bundle = config.bundle(
            identity, directory / "root", substrate.limits,
            template.cgroups.unlimited, f"{template.group}/{identity.id}", {},
        )  # fmt: skip
        bundle["process"]["args"] = [ECHO, word]
        template.runc.write(directory, bundle)
        argv = template.runc.argv("run", "--no-new-keyring", "--bundle", directory, identity.id)
        began = time.perf_counter()
        done = subprocess.run(
            argv,
            env=run.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT_S,
        )
        took = time.perf_counter() - began
    finally:
        roots.unmount(directory / "root")
        shutil.rmtree(directory, ignore_errors=True)
        identity.release()
    if done.stdout != f"{word}\n".encode():
        raise SandboxError(f"runc run printed {done.stdout!r}: {done.stderr.decode().strip()}")
    return took
