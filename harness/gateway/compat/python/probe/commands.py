"""Processes and terminals of a sandbox."""

from __future__ import annotations

import contextlib
import shlex

from e2b import CommandExitException, TimeoutException
from e2b.sandbox.commands.command_handle import PtySize
from registry import ODD, ODD_DIRECTORY, expect, probe


def closes_stdin(world):
    return hasattr(world.box.commands, "close_stdin")


async def begin(world, command, **more):
    """A process in the background. Older versions have no option `stdin`: it is always open."""
    if more.get("stdin") and not closes_stdin(world):
        try:
            return await world.do(world.box.commands.run(command, background=True, **more))
        except TypeError:
            del more["stdin"]
    return await world.do(world.box.commands.run(command, background=True, **more))


@probe("commands.run")
async def _(world):
    run = world.box.commands.run
    done = await world.do(run("echo out; echo err >&2; pwd; id -un"))
    expect((done.stdout, done.stderr) == ("out\n/home/user\nuser\n", "err\n"), done)
    expect((await world.do(run("id -u", user="root"))).stdout == "0\n", "not root")
    got = []
    await world.do(run("echo $X", envs={"X": "y"}, cwd="/tmp", on_stdout=got.append))
    expect(got == ["y\n"], got)
    printed = await world.do(run(f'printf %s "$X" {shlex.quote(ODD)}', envs={"X": ODD}))
    expect(printed.stdout == ODD + ODD, printed)
    await world.do(world.box.files.make_dir(ODD_DIRECTORY))
    there = await world.do(run("pwd", cwd=ODD_DIRECTORY))
    expect(there.stdout == f"{ODD_DIRECTORY}\n", there)
    for command, more, error_of in (
        ("exit 3", {}, CommandExitException),
        ("sleep 60", {"timeout": 1}, TimeoutException),
        ("true", {"user": "no süch user"}, Exception),
    ):
        try:
            await world.do(run(command, **more))
        except error_of as error:
            expect(error_of is not CommandExitException or error.exit_code == 3, error)
            expect("user" not in more or more["user"] in str(error), error)
        else:
            raise AssertionError(f"{command} {more} raised nothing")


@probe("commands.list")
async def _(world):
    begun = await begin(world, "sleep 60")
    listed = await world.do(world.box.commands.list())
    expect(begun.pid in [one.pid for one in listed], listed)
    await world.do(begun.kill())


@probe("commands.connect")
async def _(world):
    begun = await begin(world, "read line; echo later $line", stdin=True)
    await world.do(begun.disconnect())
    again = await world.do(world.box.commands.connect(begun.pid))
    await world.do(world.box.commands.send_stdin(begun.pid, "on\n"))
    done = await world.do(again.wait())
    expect(done.stdout == "later on\n", done)


@probe("commands.send_stdin")
async def _(world):
    begun = await begin(world, f"head -c {len(ODD.encode())}", stdin=True)
    await world.do(world.box.commands.send_stdin(begun.pid, ODD))
    done = await world.do(begun.wait())
    expect(done.stdout == ODD, done)


@probe("commands.close_stdin")
async def _(world):
    begun = await begin(world, "cat", stdin=True)
    await world.do(world.box.commands.send_stdin(begun.pid, ODD))
    await world.do(world.box.commands.close_stdin(begun.pid))
    done = await world.do(begun.wait())
    expect(done.stdout == ODD, done)


@probe("commands.stream_input")
async def _(world):
    begun = await begin(world, "cat", stdin=True)
    if world.asynchronous:
        stream = await world.do(world.box.commands.stream_input(begun.pid))
        for part in (ODD, "two\n"):
            await stream.send(part)
        await stream.close()
    else:
        world.box.commands.stream_input(begun.pid, [ODD, "two\n"])
    await world.do(world.box.commands.close_stdin(begun.pid))
    done = await world.do(begun.wait())
    expect(done.stdout == ODD + "two\n", done)


@probe("command_input_handle.send", "command_input_handle.close")
async def _(world, name):
    count = len(ODD.encode())
    begun = await begin(world, "cat" if name == "close" else f"head -c {count}", stdin=True)
    stream = await world.do(world.box.commands.stream_input(begun.pid))
    await stream.send(ODD)
    if name == "close":
        await stream.close()
        await world.do(begun.close_stdin())
    done = await world.do(begun.wait())
    expect(done.stdout == ODD, done)


@probe("commands.kill")
async def _(world):
    begun = await begin(world, "sleep 60")
    expect(await world.do(world.box.commands.kill(begun.pid)) is True, "not killed")
    await ended(world, begun)
    expect(await world.do(world.box.commands.kill(begun.pid)) is False, "killed twice")


async def ended(world, begun):
    """Wait for the end of a process that was killed."""
    try:
        done = await world.do(begun.wait())
    except CommandExitException:
        return
    raise AssertionError(f"a process that was killed ended well: {done!r}")


@probe("command_handle.wait")
async def _(world):
    begun = await begin(world, "echo out; echo err >&2; exit 4")
    try:
        await world.do(begun.wait())
    except CommandExitException as error:
        expect((error.exit_code, error.stdout, error.stderr) == (4, "out\n", "err\n"), error)
    else:
        raise AssertionError("exit 4 raised nothing")


@probe("command_handle.kill")
async def _(world):
    begun = await begin(world, "sleep 60")
    expect(await world.do(begun.kill()) is True, "not killed")
    await ended(world, begun)
    expect(await world.do(begun.kill()) is False, "killed twice")


@probe("command_handle.disconnect")
async def _(world):
    begun = await begin(world, "sleep 60")
    await world.do(begun.disconnect())
    listed = await world.do(world.box.commands.list())
    expect(begun.pid in [one.pid for one in listed], listed)
    await world.do(world.box.commands.kill(begun.pid))


@probe("command_handle.send_stdin", "command_handle.close_stdin")
async def _(world, name):
    count = len(ODD.encode())
    begun = await begin(world, "cat" if name == "close_stdin" else f"head -c {count}", stdin=True)
    await world.do(begun.send_stdin(ODD))
    if name == "close_stdin":
        await world.do(begun.close_stdin())
    done = await world.do(begun.wait())
    expect(done.stdout == ODD, done)


# Terminals.


class Terminal:
    """A shell in a terminal, with what it has printed. The asynchronous classes hand the output to
    a callback, the synchronous ones to `wait`."""

    def __init__(self, world):
        self._world, self.output = world, []
        self._more = {"on_data": self.output.append} if world.asynchronous else {}

    async def begin(self, **size):
        self.handle = await self._world.do(
            self._world.box.pty.create(PtySize(**size), **self._more)
        )
        return self

    async def connect(self, pid):
        self.handle = await self._world.do(self._world.box.pty.connect(pid, **self._more))
        return self

    async def printed(self):
        """All output, until the shell ends."""
        more = {} if self._world.asynchronous else {"on_pty": self.output.append}
        await self._world.do(self.handle.wait(**more))
        return b"".join(map(bytes, self.output))


@probe("pty.create")
async def _(world):
    terminal = await Terminal(world).begin(rows=24, cols=80)
    await world.do(world.box.pty.send_stdin(terminal.handle.pid, b"stty size; exit 0\n"))
    printed = await terminal.printed()
    expect(b"24 80" in printed, printed)


@probe("pty.resize")
async def _(world):
    terminal = await Terminal(world).begin(rows=24, cols=80)
    await world.do(world.box.pty.resize(terminal.handle.pid, PtySize(rows=30, cols=100)))
    await world.do(world.box.pty.send_stdin(terminal.handle.pid, b"stty size; exit 0\n"))
    printed = await terminal.printed()
    expect(b"30 100" in printed, printed)


@probe("pty.send_stdin")
async def _(world):
    terminal = await Terminal(world).begin(rows=24, cols=80)
    await world.do(world.box.pty.send_stdin(terminal.handle.pid, b"echo $((6*7)); exit 0\n"))
    printed = await terminal.printed()
    expect(b"42" in printed, printed)


@probe("pty.stream_input")
async def _(world):
    terminal = await Terminal(world).begin(rows=24, cols=80)
    parts = [b"echo $((6*7))\n", b"exit 0\n"]
    if world.asynchronous:
        stream = await world.do(world.box.pty.stream_input(terminal.handle.pid))
        for part in parts:
            await stream.send(part)
        await stream.close()
    else:
        world.box.pty.stream_input(terminal.handle.pid, parts)
    printed = await terminal.printed()
    expect(b"42" in printed, printed)


@probe("pty.connect")
async def _(world):
    first = await Terminal(world).begin(rows=24, cols=80)
    await world.do(first.handle.disconnect())
    again = await Terminal(world).connect(first.handle.pid)
    await world.do(world.box.pty.send_stdin(first.handle.pid, b"echo $((6*7)); exit 0\n"))
    printed = await again.printed()
    expect(b"42" in printed, printed)


@probe("pty.kill")
async def _(world):
    terminal = await Terminal(world).begin(rows=24, cols=80)
    expect(await world.do(world.box.pty.kill(terminal.handle.pid)) is True, "not killed")
    with contextlib.suppress(CommandExitException):
        await terminal.printed()
    expect(await world.do(world.box.pty.kill(terminal.handle.pid)) is False, "killed twice")
