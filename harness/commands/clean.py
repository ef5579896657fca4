"""Remove what dead runs left behind on this machine; live runs are not touched.

The sandboxes that a killed gateway left running are removed too: start it again first to keep them.
What it has saved stays.

Records stay, and so do the logs of failures (COPPICE_FAILURES, else `failures/` in the state
directory), of which the oldest are dropped by the runs themselves.

With COPPICE_HOST set, it cleans that host, even if that has no Python.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.errors import MissingTool
from harness.host import dead_runs
from harness.host.dead_runs import DeadRuns
from harness.host.leftover import Leftover
from harness.host.leftovers import find, reclaim
from harness.host.session import open_run
from harness.paths import runtime_directory

HELP = "remove what dead runs left behind"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only list what would be removed")


def main(options: argparse.Namespace) -> int:
    runtime = runtime_directory()
    waiting = dead_runs.waiting(runtime)
    if options.dry_run:
        found: Sequence[Leftover] = find(runtime, dead=DeadRuns(waiting=True))
    else:
        found = reclaim(runtime, waiting=True)
    _print(found, options.dry_run)
    directories = {Path(leftover.name) for leftover in found}
    for state in sorted({waiting[directory] for directory in directories & waiting.keys()}):
        done = "would end" if options.dry_run else "ended"
        print(f"{done} what the gateway with the state in {state} had left running")
        if options.dry_run:
            print(f"  coppice gateway --state {state}   (keeps it)")
    return 0


def main_remote(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Clean the host that COPPICE_HOST names."""
    from harness.host import leftovers_freebsd
    from harness.remote import remote_run
    from harness.remote.ssh import open_ssh

    try:
        return remote_run.run_remotely(remote_run.address(), argv, None)
    except MissingTool:
        # Without Python no run can be alive there, so whatever carries our names is a leftover.
        with open_run() as run, open_ssh(run, remote_run.address()) as host:
            found = leftovers_freebsd.find(host, lambda id: id == run.mark)
            if not options.dry_run:
                for leftover in found:
                    leftovers_freebsd.remove(host, leftover)
            _print(found, options.dry_run)
        return 0


def _print(found: Sequence[Leftover], dry_run: bool) -> None:
    done = "would remove" if dry_run else "removed"
    for leftover in found:
        print(f"{done} {leftover.what} {leftover.name} of run {leftover.run_id}")
    if not found:
        print("No leftovers found")
