"""Processes and files: the services of envd."""

from __future__ import annotations

import io
import os
import shlex
import ssl
import time
import urllib.request

from checks import ALL_BYTES, ENVD, ODD, ODD_PATH, attribute, check


@check("process: Start", ENVD)
def _(world):
    from e2b import CommandExitException

    done = world.one.commands.run("echo out; echo err >&2; pwd; id -un")
    assert done.stdout == "out\n/home/user\nuser\n" and done.stderr == "err\n", done
    assert world.one.commands.run("id -u", user="root").stdout == "0\n"
    got = []
    world.one.commands.run("echo $X", envs={"X": "y"}, cwd="/tmp", on_stdout=got.append)
    assert got == ["y\n"], got
    printed = world.one.commands.run(f'printf %s "$X" {shlex.quote(ODD)}', envs={"X": ODD})
    assert printed.stdout == ODD + ODD, printed
    world.one.files.make_dir("/tmp/d é+%20&=")
    assert world.one.commands.run("pwd", cwd="/tmp/d é+%20&=").stdout == "/tmp/d é+%20&=\n"
    try:
        world.one.commands.run("true", user="no süch user")
    except CommandExitException:
        raise
    except Exception as error:
        assert "no süch user" in str(error), error
    else:
        raise AssertionError("an unknown user was accepted")
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
    world.one.commands.send_stdin(begun.pid, ODD)
    if hasattr(world.one.commands, "close_stdin"):
        world.one.commands.close_stdin(begun.pid)
        assert begun.wait().stdout == ODD
    else:
        for out, _, _ in begun:
            assert out == ODD
            break
        begun.kill()


@check("process: StreamInput", ENVD)
def _(world):
    stream = attribute(world.one.commands, "stream_input")
    begun = world.one.commands.run("cat", background=True, stdin=True)
    stream(begun.pid, [ODD, "two\n"])
    world.one.commands.close_stdin(begun.pid)
    assert begun.wait().stdout == ODD + "two\n"


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
    world.one.files.write(ODD_PATH, "1234")
    assert world.one.files.exists(ODD_PATH) and not world.one.files.exists(ODD_PATH + "x")
    assert world.one.files.get_info(ODD_PATH).path == f"/home/user/{ODD_PATH}"


@check("filesystem: ListDir", ENVD)
def _(world):
    world.one.files.write("list/a/b.txt", "")
    found = world.one.files.list("list", depth=2)
    assert [one.path for one in found] == ["/home/user/list/a", "/home/user/list/a/b.txt"], found
    directory, _, name = ODD_PATH.partition("/")
    world.one.files.write(ODD_PATH, "")
    assert name in [one.name for one in world.one.files.list(directory)]


@check("filesystem: MakeDir", ENVD)
def _(world):
    assert world.one.files.make_dir("made/deep") is True
    assert world.one.files.make_dir("made/deep") is False
    assert world.one.files.make_dir(f"made/{ODD_PATH}") is True
    assert world.one.files.make_dir(f"made/{ODD_PATH}") is False


@check("filesystem: Move", ENVD)
def _(world):
    world.one.files.write("before.txt", "moved")
    world.one.files.rename("before.txt", "after.txt")
    assert world.one.files.read("after.txt") == "moved"
    world.one.files.rename("after.txt", ODD_PATH)
    assert world.one.files.read(ODD_PATH) == "moved"


@check("filesystem: Remove", ENVD)
def _(world):
    world.one.files.write("directory/file.txt", "")
    world.one.files.remove("directory")
    assert not world.one.files.exists("directory")
    world.one.files.write(ODD_PATH, "")
    world.one.files.remove(ODD_PATH)
    assert not world.one.files.exists(ODD_PATH)


@check("filesystem: CreateWatcher, GetWatcherEvents, RemoveWatcher", ENVD)
def _(world):
    world.one.files.make_dir("watched")
    handle = world.one.files.watch_dir("watched", recursive=True)
    name = ODD_PATH.partition("/")[2]
    world.one.files.write(f"watched/{name}", "x")
    seen = []
    for _ in range(50):
        seen += handle.get_new_events()
        if any(one.name == name for one in seen):
            break
        time.sleep(0.1)
    handle.stop()
    assert any(one.name == name for one in seen), seen


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
    world.one.files.write(ODD_PATH, ODD)
    assert world.one.files.read(ODD_PATH) == ODD
    if hasattr(world.one.files, "write_files"):
        many = [{"path": f"many/{n}.txt", "data": str(n)} for n in range(3)]
        world.one.files.write_files(many)
        assert world.one.files.read("many/2.txt") == "2"
        world.one.files.write_files([{"path": f"many/{n}{ODD_PATH}", "data": ODD} for n in "ab"])
        assert world.one.files.read(f"many/b{ODD_PATH}") == ODD


@check("files: POST, stream", ENVD)
def _(world):
    data = os.urandom(3 << 20)
    world.one.files.write("stream.bin", io.BytesIO(data))
    assert bytes(world.one.files.read("stream.bin", format="bytes")) == data
    world.one.files.write(ODD_PATH, io.BytesIO(ALL_BYTES))
    assert bytes(world.one.files.read(ODD_PATH, format="bytes")) == ALL_BYTES


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
    world.one.files.write(ODD_PATH, "signed")
    context = ssl.create_default_context() if os.environ.get("SSL_CERT_FILE") else None
    path = f"/home/user/{ODD_PATH}"
    for more in ({}, {"user": "root"}, {"use_signature_expiration": 600}):
        address = world.one.download_url(path, **more)
        with urllib.request.urlopen(address, context=context) as answer:
            assert answer.read() == b"signed"
        broken = address.replace("v1_", "v1_x")
        try:
            urllib.request.urlopen(broken, context=context)
        except urllib.error.HTTPError as error:
            assert error.code in (401, 404)
        else:
            raise AssertionError("a wrong signature was accepted")
    address = world.one.upload_url(f"{path}.new")
    kind = {"Content-Type": "application/octet-stream"}
    asked = urllib.request.Request(address, ALL_BYTES, kind, method="POST")
    with urllib.request.urlopen(asked, context=context) as answer:
        assert answer.status == 200
    assert bytes(world.one.files.read(f"{path}.new", format="bytes")) == ALL_BYTES


@check("GET /health of envd", ENVD)
def _(world):
    assert world.one.is_running() is True
