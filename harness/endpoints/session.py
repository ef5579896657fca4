"""The time that a run spends at a service: whatever it makes there is deleted at its end.

That is so after an error and after Ctrl-C, too. After a SIGKILL the next run at the same address
does it, or `coppice clean --endpoint`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from harness.endpoints import clearing, event_loop
from harness.endpoints import journal as journals
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
            entries = journals.read(journal.path)
            if entries.alive or entries.lost:
                tell(f"deleting what was made at {endpoint.name}")
            result = event_loop.run(clearing.clear(endpoint, entries))
            clearing.finish(entries, result)
            session.left = clearing.lines(endpoint, result)
            for line in session.left:
                tell(line)


def reclaim(endpoint: Endpoint, tell: Tell = print, *, own_key: bool = False) -> Sequence[str]:
    """Delete what dead runs have left at a service; returns the ids that were deleted.

    With `own_key`, what was made with another key is only named: to this key the service might say
    that it has no such sandboxes.
    """
    deleted: list[str] = []
    for entries in journals.dead(endpoint.address):
        if own_key and entries.key_mark not in ("", journals.mark(endpoint.key)):
            tell(f"another key has made what run {entries.run_id} has left at {endpoint.name}")
            tell(f"  with that key: {clearing.command(endpoint)}")
            continue
        result = event_loop.run(clearing.clear(endpoint, entries))
        clearing.finish(entries, result)
        deleted += result.deleted
        for line in clearing.lines(endpoint, result):
            tell(line)
    return deleted
