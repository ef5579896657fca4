"""The sandbox and the other objects that probes share, and their end."""

from __future__ import annotations

import contextlib
import inspect
import secrets
import time

import e2b
import e2b_code_interpreter as sdk
from registry import ODD, ODD_DIRECTORY, ODD_NAME, Unavailable, expect
from verdicts import judged

LIFE_S = 600
CREATE = "Sandbox.create"


class World:
    """The SDK's classes, asynchronous or not, and what has been made with them.

    `tag` is metadata of every sandbox, by which they are found again; `template` is None for the
    SDK's own default. Creations are `apart_s` seconds apart at least. `exchanges` are the HTTP
    exchanges that the SDK has logged.
    """

    def __init__(self, asynchronous, tag, template, apart_s, exchanges):
        self.asynchronous = asynchronous
        self.exchanges = exchanges
        self.tag = tag
        self._template = template
        self._apart_s, self._last = apart_s, 0.0
        prefix = "Async" if asynchronous else ""
        for name in ("Sandbox", "Template", "Volume", "Secret"):
            setattr(self, name, getattr(sdk, prefix + name, getattr(e2b, prefix + name, None)))
        self.name = f"coppice-{secrets.token_hex(4)}"
        """Of whatever a probe names itself."""
        self.metadata = {**tag, "probe": self.name, ODD_NAME: ODD}
        self.box = None
        self._kept = {}
        self._failed = {}
        self._ends = []

    async def do(self, value):
        """The result of a call: of the synchronous classes the value itself."""
        return await value if inspect.isawaitable(value) else value

    async def all(self, values):
        """The items of an iterator of either kind."""
        if hasattr(values, "__aiter__"):
            return [one async for one in values]
        return list(values)

    async def create(self, template=None, **more):
        """Another sandbox. It ends with the world at the latest."""
        options = {"timeout": 120, **more}
        options["metadata"] = {**options.get("metadata", {}), **self.tag}
        if template or self._template:
            options["template"] = template or self._template
        self.wait()
        made = await self.do(self.Sandbox.create(**options))
        self.at_end(lambda: made.kill())
        return made

    def wait(self, count=1):
        """Wait until so many sandboxes may be made."""
        time.sleep(max(self._last + self._apart_s - time.monotonic(), 0))
        self._last = time.monotonic() + (count - 1) * self._apart_s

    def at_end(self, end):
        """Call this at the end of the world; what it raises is ignored."""
        self._ends.append(end)

    async def begin(self):
        """Create the shared sandbox, unless it is there. Raises Unavailable."""
        if self.box is None:

            async def make():
                return await self.create(timeout=LIFE_S, metadata=self.metadata)

            self.box = await self.kept("box", CREATE, make)

    async def kept(self, what, method, make):
        """The object under this name; it is made first if there is none. Raises Unavailable with
        the verdict on the method that makes it."""
        if what in self._failed:
            raise self._failed[what]
        if what not in self._kept:
            self.exchanges.taken()
            try:
                self._kept[what] = await make()
            except Unavailable as error:
                self._failed[what] = error
                raise
            except Exception as error:
                kind, reason = judged(error, self.exchanges.taken(), True)
                self._failed[what] = Unavailable(method, kind, reason)
                raise self._failed[what] from error
        return self._kept[what]

    def taken(self, what):
        """The object is used up: the next request for it gets a new one."""
        self._kept.pop(what, None)

    async def context(self):
        """A context of code beside the default one."""

        async def make():
            await self.do(self.box.files.make_dir(ODD_DIRECTORY))
            return await self.do(self.box.create_code_context(cwd=ODD_DIRECTORY))

        return await self.kept("context", "sandbox.create_code_context", make)

    async def paused(self):
        """A paused sandbox that has a file kept.txt."""

        async def make():
            made = await self.create()
            await self.do(made.files.write("kept.txt", "kept"))
            await self.do(made.pause() if hasattr(made, "pause") else made.beta_pause())
            expect((await self.do(made.get_info())).state.value == "paused", "a running sandbox")
            return made

        return await self.kept("paused", "sandbox.pause", make)

    async def snapshot(self):
        """A snapshot of the shared sandbox, with a file in-the-snapshot.txt."""

        async def make():
            await self.do(self.box.files.write("in-the-snapshot.txt", "here"))
            made = await self.do(self.box.create_snapshot())
            self.at_end(lambda: self.Sandbox.delete_snapshot(made.snapshot_id))
            return made

        return await self.kept("snapshot", "sandbox.create_snapshot", make)

    async def is_alive(self):
        """Whether the shared sandbox still answers."""
        with contextlib.suppress(Exception):
            return await self.do(self.box.is_running())
        return False

    def lost(self):
        """The shared sandbox is gone: the next probe gets another."""
        self.box = None
        self._kept.clear()
        self._failed.clear()

    async def end(self):
        for end in reversed(self._ends):
            with contextlib.suppress(Exception):
                await self.do(end())
