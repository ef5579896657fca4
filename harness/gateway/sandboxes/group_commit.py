"""Changes that several callers make at the same time, in one transaction.

A transaction costs several system calls and writes whole pages, however little it changes.
"""

from __future__ import annotations

import asyncio
import contextlib

from harness.errors import CoppiceError
from harness.gateway.sandboxes.database import Database, Put, Removal

Waiting = tuple[Put | Removal, "asyncio.Future[None]"]


class GroupCommit:
    """For the event loop only. What comes in one turn of it is committed together in the next."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[Waiting] = []
        self._owed: dict[str, Removal] = {}
        """Removals that have failed, by their key."""

    async def add(self, change: Put | Removal) -> None:
        """Make a change. It is made even if the caller is cancelled meanwhile. Raises what
        `Database.apply` raises for it."""
        loop = asyncio.get_running_loop()
        made: asyncio.Future[None] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self.commit)
        self._waiting.append((change, made))
        await made

    def owe(self, removal: Removal) -> None:
        """Make a removal that has failed as soon as the database takes changes again."""
        self._owed[removal.key] = removal

    def commit(self) -> None:
        """Make the changes that wait, now, and the removals that are owed."""
        waiting, self._waiting = self._waiting, []
        if waiting and not self._committed(waiting) and len(waiting) > 1:
            for each in waiting:  # what is wrong with one is not the others' fault
                self._committed([each])
        if self._owed:
            # In a transaction of their own: with them, a change may need more room than there is.
            with contextlib.suppress(CoppiceError, OSError):
                self._database.apply(*self._owed.values())
                self._owed.clear()

    def _committed(self, waiting: list[Waiting]) -> bool:
        """Whether changes could be made; a caller alone is told why not."""
        try:
            self._database.apply(*(change for change, _ in waiting))
        except Exception as error:
            if len(waiting) == 1 and not waiting[0][1].done():
                waiting[0][1].set_exception(error)
            return False
        for _, made in waiting:
            if not made.done():
                made.set_result(None)
        return True
