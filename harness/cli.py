"""The `coppice` command: finds its subcommands, turns errors into a message and an exit code.

A subcommand is a module with `HELP` (one line), `arguments(parser)` and `main(options) -> int`,
registered under the entry point group `coppice.commands`; ours are the files in harness/commands/.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from typing import Any, NoReturn

from harness import __version__, commands
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
    """Every subcommand's name and module, ours first; one that does not load is reported."""
    ours = sorted(found.name for found in pkgutil.iter_modules(commands.__path__))
    for name in ours:
        yield name, importlib.import_module(f"{commands.__name__}.{name}")
    taken = dict.fromkeys(ours, OURS)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        whose = entry.dist.name if entry.dist else entry.value
        if taken.setdefault(entry.name, whose) != whose:
            _left_out(entry.name, whose, f"the name is taken by {taken[entry.name]}")
        elif entry.name not in ours:
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


def parser(asked: str | None = None) -> argparse.ArgumentParser:
    """The command line: of one command, where it is known which, else of all.

    A command's options may take long to find: `run` loads every rig for those that they declare.
    """
    top = Parser(prog="coppice", description="Benchmarks of sandbox hosts.")
    top.add_argument("--version", action="version", version=f"coppice {__version__}")
    sub = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in modules():
        own = sub.add_parser(name, help=module.HELP, description=module.__doc__)
        if asked in (None, name):
            module.arguments(own)
        own.set_defaults(main=module.main)
        if hasattr(module, "there"):  # what it does on the host that COPPICE_HOST names
            own.set_defaults(there=module.there)
    return top


@contextlib.contextmanager
def _ended_by(*numbers: int) -> Iterator[None]:
    """Let signals that would kill this process end it as an interrupt does: everything that it has
    made is taken down."""

    def end(number: int, _: object) -> None:
        raise Interrupted(number)

    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code (see harness/errors.py)."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    asked = arguments[0] if arguments and not arguments[0].startswith("-") else None
    try:
        options = parser(asked).parse_args(arguments)
        # A gateway has a way of its own to end.
        ends = () if options.command == "gateway" else (signal.SIGTERM, signal.SIGHUP)
        with _ended_by(*ends):
            if os.environ.get(HOST) and hasattr(options, "there"):
                return int(options.there(options, arguments))
            code = int(options.main(options))
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; nor may the interpreter flush at its end.
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
