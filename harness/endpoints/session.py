"""The time that a run spends at a service: whatever it makes there is deleted at its end.

That is so after an error and after Ctrl-C, too. After a SIGKILL the next run at the same address
does it, or `coppice clean --endpoint`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from harness.endpoints import clearing, event_loop
from harness.endpoints import journal as journals
from harness.endpoints.clearing import Cleared
from harness.endpoints.journal import RunJournal
from harness.endpoints.settings import Endpoint

Tell = Callable[[str], object]


class Session:
    """`journal` is for the client of this run. `left` says, after the end, what could not be
    deleted."""

    def __init__(self, journal: RunJournal) -> None:
        self.journal = journal
        self.left: Sequence[str] = ()


@contextlib.contextmanager
def begun(endpoint: Endpoint, run_id: str, tell: Tell = print) -> Iterator[Session]:
    """A run at a service. `tell` shows the user what was left."""
    reclaim(endpoint, tell, own_key=True)
    with journals.opened(endpoint, run_id) as journal:
        session = Session(journal)
        try:
            yield session
        finally:
            # The journal stays locked meanwhile, so that no other run deletes the same.
            entries = journal.entries()
            if entries.alive or entries.lost:
                tell(f"deleting what was made at {endpoint.name}")
            try:
                result = event_loop.run(clearing.clear(endpoint, entries))
            except BaseException:  # such as a second Ctrl-C
                tell(f"the deletion was not finished: run {run_id} may have left sandboxes")
                tell(f"  to finish it: {clearing.command(endpoint)}")
                raise
            if clearing.finished(entries, result):
                journal.drop()
            session.left = clearing.lines(endpoint, result)
            for line in session.left:
                tell(line)


def reclaim(
    endpoint: Endpoint, tell: Tell = print, *, own_key: bool = False, variable: str | None = None
) -> Cleared:
    """Delete what dead runs have left at a service; returns what was deleted, of all runs.

    With `own_key`, what was made with another key is only named. With `variable`, only the runs
    whose key was in that variable are looked at.
    """
    whole = Cleared()
    for entries in journals.dead(endpoint.address):
        if variable is not None and entries.key_variable != variable:
            continue
        if own_key and clearing.of_other_key(endpoint, entries):
            tell(f"another key has made what run {entries.run_id} has left at {endpoint.name}")
            tell(f"  with that key: {clearing.command(endpoint)}")
            continue
        result = event_loop.run(clearing.clear(endpoint, entries))
        if clearing.finished(entries, result):
            journals.drop(entries.path)
        whole.add(result)
        for line in clearing.lines(endpoint, result):
            tell(line)
    return whole
