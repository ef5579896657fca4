"""Processes and files: the services of envd."""

from __future__ import annotations

import io
import os
import time
import urllib.request

from checks import ENVD, attribute, check


@check("process: Start", ENVD)
def _(world):
    from e2b import CommandExitException

    done = world.one.commands.run("echo out; echo err >&2; pwd; id -un")
    assert done.stdout == "out\n/home/user\nuser\n" and done.stderr == "err\n", done
    assert world.one.commands.run("id -u", user="root").stdout == "0\n"
    got = []
    world.one.commands.run("echo $X", envs={"X": "y"}, cwd="/tmp", on_stdout=got.append)
    assert got == ["y\n"], got
    try:
        world.one.commands.run("exit 3")
    except CommandExitException as error:
        assert error.exit_code == 3
    else:
        raise AssertionError("exit 3 raised nothing")


@check("process: Start, time limit", ENVD)
def _(world):
    from e2b import TimeoutException

    try:
        world.one.commands.run("sleep 60", timeout=1)
    except TimeoutException:
        return
    raise AssertionError("a command ran past its time limit")


@check("process: Connect", ENVD)
def _(world):
    begun = world.one.commands.run("sleep 1; echo later", background=True)
    begun.disconnect()
    assert world.one.commands.connect(begun.pid).wait().stdout == "later\n"


@check("process: List", ENVD)
def _(world):
    begun = world.one.commands.run("sleep 60", background=True)
    assert begun.pid in [one.pid for one in world.one.commands.list()]
    begun.kill()


@check("process: SendInput, CloseStdin", ENVD)
def _(world):
    try:
        begun = world.one.commands.run("cat", background=True, stdin=True)
    except TypeError:
        begun = world.one.commands.run("cat", background=True)
    world.one.commands.send_stdin(begun.pid, "said\n")
    if hasattr(world.one.commands, "close_stdin"):
        world.one.commands.close_stdin(begun.pid)
        assert begun.wait().stdout == "said\n"
    else:
        for out, _, _ in begun:
            assert out == "said\n"
            break
        begun.kill()


@check("process: StreamInput", ENVD)
def _(world):
    stream = attribute(world.one.commands, "stream_input")
    begun = world.one.commands.run("cat", background=True, stdin=True)
    stream(begun.pid, ["one ", "two\n"])
    world.one.commands.close_stdin(begun.pid)
    assert begun.wait().stdout == "one two\n"


@check("process: SendSignal", ENVD)
def _(world):
    begun = world.one.commands.run("sleep 60", background=True)
    assert world.one.commands.kill(begun.pid) is True
    time.sleep(0.5)
    assert world.one.commands.kill(begun.pid) is False


@check("process: Start with a pty, Update", ENVD)
def _(world):
    from e2b.sandbox.commands.command_handle import PtySize

    output = []
    begun = world.one.pty.create(PtySize(rows=24, cols=80))
    world.one.pty.resize(begun.pid, PtySize(rows=30, cols=100))
    world.one.pty.send_stdin(begun.pid, b"stty size; exit 0\n")
    begun.wait(on_pty=output.append)
    assert b"30 100" in b"".join(output), output


@check("filesystem: Stat", ENVD)
def _(world):
    world.one.files.write("stat.txt", "1234")
    assert world.one.files.exists("stat.txt") and not world.one.files.exists("nothing.txt")
    info = world.one.files.get_info("stat.txt")
    assert info.size == 4 and info.owner == "user" and info.path == "/home/user/stat.txt", info


@check("filesystem: ListDir", ENVD)
def _(world):
    world.one.files.write("list/a/b.txt", "")
    found = world.one.files.list("list", depth=2)
    assert [one.path for one in found] == ["/home/user/list/a", "/home/user/list/a/b.txt"], found


@check("filesystem: MakeDir", ENVD)
def _(world):
    assert world.one.files.make_dir("made/deep") is True
    assert world.one.files.make_dir("made/deep") is False


@check("filesystem: Move", ENVD)
def _(world):
    world.one.files.write("before.txt", "moved")
    world.one.files.rename("before.txt", "after.txt")
    assert world.one.files.read("after.txt") == "moved"


@check("filesystem: Remove", ENVD)
def _(world):
    world.one.files.write("directory/file.txt", "")
    world.one.files.remove("directory")
    assert not world.one.files.exists("directory")


@check("filesystem: CreateWatcher, GetWatcherEvents, RemoveWatcher", ENVD)
def _(world):
    world.one.files.make_dir("watched")
    handle = world.one.files.watch_dir("watched", recursive=True)
    world.one.files.write("watched/new.txt", "x")
    seen = []
    for _ in range(50):
        seen += handle.get_new_events()
        if any(one.name == "new.txt" for one in seen):
            break
        time.sleep(0.1)
    handle.stop()
    assert any(one.name == "new.txt" for one in seen), seen


@check("filesystem: WatchDir", ENVD)
def _(world):
    import asyncio

    from e2b_code_interpreter import AsyncSandbox

    async def do():
        box = await AsyncSandbox.connect(world.one.sandbox_id, timeout=600)
        came = asyncio.Event()

        async def hear(event):
            if event.name == "streamed.txt":
                came.set()

        await box.files.make_dir("streamed")
        handle = await box.files.watch_dir("streamed", hear)
        await box.files.write("streamed/streamed.txt", "x")
        await asyncio.wait_for(came.wait(), 10)
        await handle.stop()

    asyncio.run(do())


@check("files: POST, form", ENVD)
def _(world):
    written = world.one.files.write("form.txt", "text")
    assert written.path == "/home/user/form.txt" or written.path == "form.txt", written
    assert world.one.files.read("form.txt") == "text"
    if hasattr(world.one.files, "write_files"):
        many = [{"path": f"many/{n}.txt", "data": str(n)} for n in range(3)]
        world.one.files.write_files(many)
        assert world.one.files.read("many/2.txt") == "2"


@check("files: POST, stream", ENVD)
def _(world):
    data = os.urandom(3 << 20)
    world.one.files.write("stream.bin", io.BytesIO(data))
    assert bytes(world.one.files.read("stream.bin", format="bytes")) == data


@check("files: GET", ENVD)
def _(world):
    try:
        from e2b import FileNotFoundException as missing
    except ImportError:
        from e2b import NotFoundException as missing

    world.one.files.write("read.txt", "text")
    assert world.one.files.read("read.txt") == "text"
    assert b"".join(world.one.files.read("read.txt", format="stream")) == b"text"
    try:
        world.one.files.read("missing.txt")
    except missing:
        return
    raise AssertionError("a missing file was read")


@check("files: signed addresses", ENVD)
def _(world):
    world.one.files.write("signed.txt", "signed")
    address = world.one.download_url("/home/user/signed.txt")
    headers = {"E2b-Sandbox-Id": world.one.sandbox_id, "E2b-Sandbox-Port": "49983"}
    asked = urllib.request.Request(address, headers=headers)
    with urllib.request.urlopen(asked) as answer:
        assert answer.read() == b"signed"
    broken = urllib.request.Request(address.replace("v1_", "v1_x"), headers=headers)
    try:
        urllib.request.urlopen(broken)
    except urllib.error.HTTPError as error:
        assert error.code == 401
    else:
        raise AssertionError("a wrong signature was accepted")


@check("GET /health of envd", ENVD)
def _(world):
    assert world.one.is_running() is True
