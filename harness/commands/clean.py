"""Remove what dead runs have left on this machine; running ones are not touched.

Records stay, and so does what explains failures (COPPICE_FAILURES, else `failures/` in the state
directory): the oldest of that goes by itself.

With COPPICE_HOST it does so on that host, whether or not a Python is there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from harness.errors import MissingTool
from harness.host.leftover import Leftover
from harness.host.leftovers import find, reclaim
from harness.host.session import open_run
from harness.paths import runtime_directory

HELP = "remove what dead runs have left"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")


def main(options: argparse.Namespace) -> int:
    runtime = runtime_directory()
    _tell(find(runtime) if options.dry_run else reclaim(runtime), options.dry_run)
    return 0


def there(options: argparse.Namespace, words: Sequence[str]) -> int:
    from harness.host import leftovers_freebsd
    from harness.remote import remote_run
    from harness.remote.ssh import open_ssh

    try:
        return remote_run.run_remotely(remote_run.address(), words, None)
    except MissingTool:
        # No run of ours can live there without a Python: whatever carries our names is left over.
        with open_run() as run, open_ssh(run, remote_run.address()) as host:
            found = leftovers_freebsd.find(host, lambda id: id == run.mark)
            if not options.dry_run:
                for one in found:
                    leftovers_freebsd.remove(host, one)
            _tell(found, options.dry_run)
        return 0


def _tell(found: Sequence[Leftover], dry_run: bool) -> None:
    done = "would remove" if dry_run else "removed"
    for one in found:
        print(f"{done} {one.what} {one.name} of run {one.run_id}")
    if not found:
        print("nothing of ours is left")
