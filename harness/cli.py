"""The `coppice` command: finds its subcommands, turns errors into a message and an exit code.

A subcommand is a module with `HELP` (one line), `arguments(parser)` and `main(options) -> int`,
registered under the entry point group `coppice.commands`; ours are the files in harness/commands/.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from typing import Any

from harness import __version__, command_log, commands
from harness.errors import CoppiceError, Interrupted

GROUP = "coppice.commands"
HOST = "COPPICE_HOST"


def modules() -> Iterator[tuple[str, Any]]:
    """Every subcommand's name and module, ours first; one that does not load is reported."""
    ours = sorted(found.name for found in pkgutil.iter_modules(commands.__path__))
    for name in ours:
        yield name, importlib.import_module(f"{commands.__name__}.{name}")
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        if entry.name in ours:
            continue
        try:
            yield entry.name, entry.load()
        except Exception as error:  # another package may fail in any way
            print(f"coppice: left out the command {entry.name}: {error!r}", file=sys.stderr)


def parser(asked: str | None = None) -> argparse.ArgumentParser:
    """The command line: of one command, where it is known which, else of all.

    A command's options may take long to find: `run` loads every rig for those that they declare.
    """
    top = argparse.ArgumentParser(prog="coppice", description="Benchmarks of sandbox hosts.")
    top.add_argument("--version", action="version", version=f"coppice {__version__}")
    top.add_argument(
        "-v", dest="commands_shown", action="store_true",
        help="show every external command on stderr, as COPPICE_LOG=1 does; COPPICE_LOG=FILE "
        "adds them to a file",
    )  # fmt: skip
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
    own = list(itertools.takewhile(lambda word: word == "-v", arguments))
    asked = next((word for word in arguments[len(own) :][:1] if not word.startswith("-")), None)
    options = parser(asked).parse_args(arguments)
    command_log.start("1" if own else None)
    # A gateway has a way of its own to end.
    ends = () if options.command == "gateway" else (signal.SIGTERM, signal.SIGHUP)
    try:
        with _ended_by(*ends):
            if os.environ.get(HOST) and hasattr(options, "there"):
                return int(options.there(options, arguments[len(own) :]))
            code = int(options.main(options))
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; nor may the interpreter flush at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except CoppiceError as error:
        print(f"coppice: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as end:
        print(f"coppice: {end}", file=sys.stderr)
        return end.exit_code
    except KeyboardInterrupt:
        print("coppice: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
