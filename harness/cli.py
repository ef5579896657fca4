"""The `coppice` command: finds its subcommands, turns errors into a message and an exit code.

A subcommand is a module with `HELP` (one line), `arguments(parser)` and `main(options) -> int`,
registered under the entry point group `coppice.commands`; our own are in harness/commands/. It may
have `main_remote(options, argv) -> int`, called instead of `main` if COPPICE_HOST is set, and
`DESCRIPTORS`, how many free file descriptors it needs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, NoReturn

from harness import (
    __version__,
    command_log,
    commands,
    descriptors,
    failures,
    interrupts,
    terminal,
)
from harness.errors import CoppiceError, Interrupted, UsageError
from harness.sandbox.protocol import OURS

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

GROUP = "coppice.commands"
HOST = "COPPICE_HOST"
PARTS = ("HELP", "arguments", "main")
"""What a subcommand's module has."""
DESCRIPTORS = 28
"""Free file descriptors that every command needs, also to be found and loaded."""
ERROR_CODES = (
    "Exit codes of errors: 64 a wrong command line; 65 a damaged input; 68 another host or a "
    "service cannot be reached; 69 not possible on this host; 70 a defect, or a program failed; 71 "
    "too little memory, or no descriptor or process left; 73 a path cannot be written; 74 a full "
    "disk; 75 a service takes no more now; 76 a sandbox or a service failed; 77 no privilege; 78 a "
    "part of another package failed; 141 the reader of the output has gone."
)
ARGPARSES_OWN = 2
"""argparse's exit code for a wrong command line."""


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

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.commands: dict[str, argparse.ArgumentParser] = {}

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(UsageError.exit_code, f"{self.prog}: error: {message}\n")

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # argparse drops errors here: `--help` would succeed without a place to go to.
        if message and file is sys.stderr:
            _show(message.rstrip("\n"))
        elif message and file:
            file.write(message)


def parser(command: str | None = None) -> Parser:
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
        own = sub.add_parser(name, help=module.HELP, description=module.__doc__, epilog=ERROR_CODES)
        if command in (None, name):
            module.arguments(own)
        own.set_defaults(main=module.main, descriptors=getattr(module, "DESCRIPTORS", DESCRIPTORS))
        top.commands[name] = own
        if hasattr(module, "main_remote"):
            own.set_defaults(main_remote=module.main_remote)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code (see harness/errors.py)."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    descriptors.open_standard()
    terminal.degrade()
    with interrupts.raised():
        try:
            return _run(arguments)
        except BrokenPipeError:
            # The reader, such as `head`, has closed the pipe; the flush at exit must not fail.
            terminal.discard_output()
            return 141
        except KeyboardInterrupt as end:
            interrupted = end if isinstance(end, Interrupted) else Interrupted()
            _show(f"coppice: {interrupted}")
            return interrupted.exit_code
        except Exception as error:
            if interrupts.requests.first:  # such as a write to a terminal that has gone
                return 128 + interrupts.requests.first
            return _failed(error)


def _run(arguments: list[str]) -> int:
    flags = list(itertools.takewhile(lambda argument: argument == "-v", arguments))
    own = arguments[len(flags) :]
    command = own[0] if own and not own[0].startswith("-") else None
    if command:
        descriptors.require(DESCRIPTORS)
    try:
        top = parser(command)
        options, unknown = top.parse_known_args(arguments)
        if unknown:
            top.commands[options.command].error(f"unrecognized arguments: {' '.join(unknown)}")
        descriptors.require(options.descriptors)
        command_log.start("1" if flags else None)
        if os.environ.get(HOST) and hasattr(options, "main_remote"):
            code = int(options.main_remote(options, own))
        else:
            code = int(options.main(options))
    except SystemExit as end:
        _flush()  # of --help, which may not have reached a pipe yet
        if end.code == ARGPARSES_OWN:  # of a parser that a command of another package made
            raise SystemExit(UsageError.exit_code) from end
        raise
    _flush()
    return code


def _flush() -> None:
    sys.stdout.flush()


def _failed(error: Exception) -> int:
    """Show an error, and return its exit code. Only a defect shows where it happened."""
    known = failures.typed(error)
    if known is None:
        text = "".join(traceback.format_exception(error)).rstrip()
        known = CoppiceError(
            f"a defect of coppice, or of a package that it loads: {error!r}",
            hint="please report it with the traceback above",
        )
        _show(text)
    _show(f"coppice: {known}")
    return known.exit_code


def _show(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may have gone
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
