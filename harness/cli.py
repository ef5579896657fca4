"""The `coppice` command: finds its subcommands, turns errors into a message and an exit code.

A subcommand is a module with `HELP` (one line), `arguments(parser)` and `main(options) -> int`,
registered under the entry point group `coppice.commands`; our own are in harness/commands/. It may
have `main_remote(options, argv) -> int`, called instead of `main` if COPPICE_HOST is set.
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
    """Every subcommand's name and module, our own first; reports those that do not load."""
    own = sorted(found.name for found in pkgutil.iter_modules(commands.__path__))
    for name in own:
        yield name, importlib.import_module(f"{commands.__name__}.{name}")
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        if entry.name in own:
            continue
        try:
            yield entry.name, entry.load()
        except Exception as error:  # another package may fail in any way
            print(f"coppice: the command {entry.name} does not load: {error!r}", file=sys.stderr)


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The command line, with the options of `command` only, or of all commands.

    Finding the options may take long: for those of `run`, every rig is loaded.
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
    options = parser(command).parse_args(arguments)
    command_log.start("1" if flags else None)
    # The gateway handles these signals itself.
    signals = () if options.command == "gateway" else (signal.SIGTERM, signal.SIGHUP)
    try:
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
