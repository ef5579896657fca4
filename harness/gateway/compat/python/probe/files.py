"""Files of a sandbox."""

from __future__ import annotations

import asyncio
import io
import os
import time

import e2b
from registry import ALL_BYTES, ODD, ODD_PATH, expect, probe

HOME = "/home/user"
WITHIN_S = 10


def missing_file():
    return getattr(e2b, "FileNotFoundException", e2b.NotFoundException)


@probe("files.write")
async def _(world):
    files = world.box.files
    written = await world.do(files.write("form.txt", "text"))
    expect(written.path == f"{HOME}/form.txt" and written.name == "form.txt", written)
    expect(await world.do(files.read("form.txt")) == "text", "other content")
    await world.do(files.write(ODD_PATH, ODD))
    expect(await world.do(files.read(ODD_PATH)) == ODD, "other content")
    data = os.urandom(3 << 20)
    await world.do(files.write("stream.bin", io.BytesIO(data)))
    expect(bytes(await world.do(files.read("stream.bin", format="bytes"))) == data, "other bytes")
    await world.do(files.write(ODD_PATH, io.BytesIO(ALL_BYTES)))
    expect(bytes(await world.do(files.read(ODD_PATH, format="bytes"))) == ALL_BYTES, "other bytes")


@probe("files.write_files")
async def _(world):
    files = world.box.files
    many = [{"path": f"many/{n}{ODD_PATH}", "data": f"{n}{ODD}"} for n in range(3)]
    written = await world.do(files.write_files(many))
    expect([one.path for one in written] == [f"{HOME}/{one['path']}" for one in many], written)
    for one in many:
        expect(await world.do(files.read(one["path"])) == one["data"], one)


@probe("files.read")
async def _(world):
    files = world.box.files
    await world.do(files.write("read.txt", "text"))
    expect(await world.do(files.read("read.txt")) == "text", "other content")
    expect(bytes(await world.do(files.read("read.txt", format="bytes"))) == b"text", "bytes")
    parts = await world.all(await world.do(files.read("read.txt", format="stream")))
    expect(b"".join(parts) == b"text", parts)
    try:
        await world.do(files.read("missing.txt"))
    except missing_file():
        return
    raise AssertionError("a missing file was read")


@probe("files.list")
async def _(world):
    files = world.box.files
    await world.do(files.write("list/a/b.txt", ""))
    deep = await world.do(files.list("list", depth=2))
    expect([one.path for one in deep] == [f"{HOME}/list/a", f"{HOME}/list/a/b.txt"], deep)
    flat = await world.do(files.list("list"))
    expect([one.name for one in flat] == ["a"], flat)
    directory, _, name = ODD_PATH.partition("/")
    await world.do(files.write(ODD_PATH, ""))
    found = await world.do(files.list(directory))
    expect(name in [one.name for one in found], found)


@probe("files.exists")
async def _(world):
    files = world.box.files
    await world.do(files.write(ODD_PATH, "1234"))
    expect(await world.do(files.exists(ODD_PATH)) is True, "it does not exist")
    expect(await world.do(files.exists(ODD_PATH + "x")) is False, "it exists")


@probe("files.get_info")
async def _(world):
    files = world.box.files
    await world.do(files.write("stat.txt", "1234"))
    info = await world.do(files.get_info("stat.txt"))
    expect((info.size, info.owner, info.path) == (4, "user", f"{HOME}/stat.txt"), info)
    await world.do(files.write(ODD_PATH, "1234"))
    info = await world.do(files.get_info(ODD_PATH))
    expect(info.path == f"{HOME}/{ODD_PATH}", info)


@probe("files.make_dir")
async def _(world):
    for path in ("made/deep", f"made/{ODD_PATH}"):
        expect(await world.do(world.box.files.make_dir(path)) is True, path)
        expect(await world.do(world.box.files.make_dir(path)) is False, path)


@probe("files.rename")
async def _(world):
    files = world.box.files
    await world.do(files.write("before.txt", "moved"))
    for before, after in (("before.txt", "after.txt"), ("after.txt", ODD_PATH)):
        moved = await world.do(files.rename(before, after))
        expect(moved.path == f"{HOME}/{after}", moved)
        expect(await world.do(files.read(after)) == "moved", after)
        expect(await world.do(files.exists(before)) is False, before)


@probe("files.remove")
async def _(world):
    files = world.box.files
    for file, removed in (("directory/file.txt", "directory"), (ODD_PATH, ODD_PATH)):
        await world.do(files.write(file, ""))
        await world.do(files.remove(removed))
        expect(await world.do(files.exists(removed)) is False, removed)


# Watching.


class Watch:
    """The events below a new directory. The asynchronous classes hand them to a callback, the
    synchronous ones when they are asked."""

    def __init__(self, world, directory):
        self._world, self._directory = world, directory
        self.seen = []
        self._more = asyncio.Event() if world.asynchronous else None

    async def begin(self, **options):
        files = self._world.box.files
        await self._world.do(files.make_dir(self._directory))
        if self._more:
            options["on_event"] = self._hear
        self.handle = await self._world.do(files.watch_dir(self._directory, **options))
        return self

    def _hear(self, event):
        self.seen.append(event.name)
        self._more.set()

    async def sees(self, name):
        """Whether there is an event of this name within some seconds."""
        deadline = time.monotonic() + WITHIN_S
        while name not in self.seen and time.monotonic() < deadline:
            if self._more:
                self._more.clear()
                try:
                    await asyncio.wait_for(self._more.wait(), deadline - time.monotonic())
                except TimeoutError:
                    break
            else:
                self.seen += [one.name for one in self.handle.get_new_events()]
                time.sleep(0.02)
        return name in self.seen


@probe("files.watch_dir", "watch_handle.get_new_events")
async def _(world, name):
    watch = await Watch(world, f"watched-{name}").begin()
    entry = ODD_PATH.partition("/")[2]
    await world.do(world.box.files.write(f"watched-{name}/{entry}", "x"))
    expect(await watch.sees(entry), watch.seen)
    await world.do(watch.handle.stop())


@probe("watch_handle.stop")
async def _(world):
    watch = await Watch(world, "watched-until").begin()
    await world.do(world.box.files.write("watched-until/first", "x"))
    expect(await watch.sees("first"), watch.seen)
    await world.do(watch.handle.stop())
    if world.asynchronous:
        return
    try:
        watch.handle.get_new_events()
    except Exception:
        return
    raise AssertionError("a watch goes on after it was stopped")
