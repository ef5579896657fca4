"""The `coppice` command: finds its subcommands, turns errors into a message and an exit code.

A subcommand is a module with `HELP` (one line), `arguments(parser)` and `main(options) -> int`,
registered under the entry point group `coppice.commands`; our own are in harness/commands/. It may
have `main_remote(options, argv) -> int`, called instead of `main` if COPPICE_HOST is set.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import itertools
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from typing import Any, NoReturn

from harness import __version__, command_log, commands
from harness.errors import CoppiceError, DiskFull, Interrupted, PathError, UsageError
from harness.sandbox.protocol import OURS

GROUP = "coppice.commands"
HOST = "COPPICE_HOST"
PARTS = ("HELP", "arguments", "main")
"""What a subcommand's module has."""
UNUSABLE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOENT,
    errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOSPC, errno.EDQUOT,
}  # fmt: skip
"""Errors of a file that the user named, or whose directory does not suit: not our defects."""


def modules() -> Iterator[tuple[str, Any]]:
    """Every subcommand's name and module, our own first; reports those that do not load."""
    own = sorted(found.name for found in pkgutil.iter_modules(commands.__path__))
    for name in own:
        yield name, importlib.import_module(f"{commands.__name__}.{name}")
    taken = dict.fromkeys(own, OURS)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        whose = entry.dist.name if entry.dist else entry.value
        if taken.setdefault(entry.name, whose) != whose:
            _left_out(entry.name, whose, f"the name is taken by {taken[entry.name]}")
        elif entry.name not in own:
            try:
                module = entry.load()
            except Exception as error:  # another package may fail in any way
                _left_out(entry.name, whose, repr(error))
                continue
            if lacking := [name for name in PARTS if not hasattr(module, name)]:
                _left_out(entry.name, whose, f"it has no {', '.join(lacking)}")
            else:
                yield entry.name, module


def _left_out(name: str, whose: str, why: str) -> None:
    print(f"coppice: left out the command {name} of {whose}: {why}", file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """Refuses a command line with the exit code of a UsageError, where argparse has 2."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(UsageError.exit_code, f"{self.prog}: error: {message}\n")


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The command line, with the options of `command` only, or of all commands.

    Finding the options may take long: for those of `run`, every rig is loaded.
    """
    top = Parser(prog="coppice", description="Benchmarks of sandbox hosts.")
    top.add_argument("--version", action="version", version=f"coppice {__version__}")
    top.add_argument(
        "-v", dest="commands_shown", action="store_true",
        help="show every external command on stderr, as COPPICE_LOG=1 does; COPPICE_LOG=FILE "
        "adds them to a file",
    )  # fmt: skip
    sub = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in modules():
        own = sub.add_parser(name, help=module.HELP, description=module.__doc__)
        if command in (None, name):
            module.arguments(own)
        own.set_defaults(main=module.main)
        if hasattr(module, "main_remote"):
            own.set_defaults(main_remote=module.main_remote)
    return top


@contextlib.contextmanager
def _interrupted_by(*numbers: int) -> Iterator[None]:
    """Let signals that would kill this process raise Interrupted, so that it cleans up."""

    def interrupt(number: int, _: object) -> None:
        raise Interrupted(number)

    handled = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in handled:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code (see harness/errors.py)."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    flags = list(itertools.takewhile(lambda argument: argument == "-v", arguments))
    own = arguments[len(flags) :]
    command = own[0] if own and not own[0].startswith("-") else None
    try:
        options = parser(command).parse_args(arguments)
        command_log.start("1" if flags else None)
        # The gateway handles these signals itself.
        signals = () if options.command == "gateway" else (signal.SIGTERM, signal.SIGHUP)
        with _interrupted_by(*signals):
            if os.environ.get(HOST) and hasattr(options, "main_remote"):
                return int(options.main_remote(options, own))
            code = int(options.main(options))
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe; the flush at exit must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except CoppiceError as error:
        return _failed(error)
    except OSError as error:
        if error.filename is None or error.errno not in UNUSABLE:
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind = DiskFull if full else PathError
        return _failed(kind(f"{os.fsdecode(error.filename)}: {error.strerror}"))
    except Interrupted as end:
        print(f"coppice: {end}", file=sys.stderr)
        return end.exit_code
    except KeyboardInterrupt:
        print("coppice: interrupted", file=sys.stderr)
        return 130


def _failed(error: CoppiceError) -> int:
    print(f"coppice: {error}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
