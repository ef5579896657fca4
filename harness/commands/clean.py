"""Remove what dead runs left behind on this machine; live runs are not touched.

The sandboxes that a killed gateway left running are removed too: start it again first to keep them.
What it has saved stays.

Records stay, and so do the logs of failures (COPPICE_FAILURES, else `failures/` in the state
directory), of which the oldest are dropped by the runs themselves.

With --endpoint, it deletes what dead runs have made at a service under test.

With COPPICE_HOST set, it cleans that host, even if that has no Python.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.endpoints import journal, session
from harness.endpoints.clearing import Cleared
from harness.endpoints.configuration import FILE
from harness.endpoints.options import OPTIONS, addressed, chosen
from harness.endpoints.settings import Endpoint
from harness.errors import EndpointFailed, MissingTool
from harness.host import dead_runs
from harness.host.dead_runs import DeadRuns
from harness.host.leftover import Leftover
from harness.host.leftovers import find, reclaim
from harness.host.session import open_run
from harness.paths import runtime_directory

HELP = "remove what dead runs left behind"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only list what would be removed")
    parser.add_argument(
        "--endpoint", metavar="URL", help="delete what dead runs have left at this service: the "
        f"address of its API, or its name in {FILE}",
    )  # fmt: skip
    for name in ("config", "api-key-env", "ca-file"):
        parser.add_argument(f"--{name}", metavar="VALUE", help=f"with --endpoint: {OPTIONS[name]}")


def main(options: argparse.Namespace) -> int:
    if options.endpoint or options.api_key_env or options.config or options.ca_file:
        return _clean_endpoint(options)
    code = _clean_here(options)
    for (address, place), runs in Counter(map(_place, journal.dead())).items():
        print(f"{runs} dead runs have left something at {address or 'the service of ' + place}")
        print(f"  coppice clean --endpoint {address or 'URL'}")
    return code


def _clean_endpoint(options: argparse.Namespace) -> int:
    """Delete what dead runs have left at a service; 76 if something is left."""
    given = {
        name: value
        for name in ("endpoint", "config", "api-key-env", "ca-file")
        if (value := getattr(options, name.replace("-", "_")))
    }
    address = addressed(given)
    left = journal.dead(address)
    variables: Sequence[str | None] = [None]  # the key that is given is for all
    if left and "api-key-env" not in given:
        variables = list(dict.fromkeys(one.key_variable for one in left))
    endpoints = [(_chosen(given, variable), variable) for variable in variables]
    endpoint = endpoints[0][0]
    if options.dry_run:
        for entries in left:
            for id in entries.alive:
                print(f"would delete the sandbox {id} of run {entries.run_id}")
            if entries.lost:
                print(f"would look for {entries.lost} more of run {entries.run_id}, by metadata")
            if entries.damaged:
                print(f"would look for what is left of run {entries.run_id}, by metadata: its")
                print(f"  journal is damaged: {entries.path}")
        if not left:
            print(f"No leftovers found at {endpoint.name}")
        return 0
    told: list[str] = []
    cleared = Cleared()
    for endpoint, variable in endpoints:
        cleared.add(session.reclaim(endpoint, told.append, variable=variable))
    for id in cleared.deleted:
        print(f"deleted the sandbox {id}")
    for id in cleared.absent:
        print(f"the sandbox {id} was gone already")
    for line in told:
        print(line, file=sys.stderr)
    if not cleared.deleted and not cleared.absent and not told:
        print(f"No leftovers found at {endpoint.name}")
    return EndpointFailed.exit_code if journal.dead(endpoint.address) else 0


def _place(entries: journal.Entries) -> tuple[str, str]:
    """The address of a journal, and the directory that tells it where the journal is damaged."""
    return entries.address, "" if entries.address else str(entries.path.parent)


def _chosen(given: Mapping[str, str], variable: str | None) -> Endpoint:
    """The service, with the key in this variable if the journals name it."""
    endpoint = chosen({**given, "api-key-env": variable} if variable else given, limited=False)
    assert endpoint
    return endpoint


def _clean_here(options: argparse.Namespace) -> int:
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

    if options.endpoint:
        return main(options)
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
