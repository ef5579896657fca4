"""The `coppice` command: finds its subcommands, turns errors into one sentence and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator, Sequence

from harness import __version__, commands
from harness.errors import CoppiceError, Interrupted

HOST = "COPPICE_HOST"


def parser(asked: str | None = None) -> argparse.ArgumentParser:
    """The command line: of one command, when it is known which, else the whole.

    A command's options may take long to find: `run` loads every rig for those that they declare.
    """
    top = argparse.ArgumentParser(prog="coppice", description="Benchmarks of sandbox hosts.")
    top.add_argument("--version", action="version", version=f"coppice {__version__}")
    sub = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for found in sorted(pkgutil.iter_modules(commands.__path__), key=lambda one: one.name):
        module = importlib.import_module(f"harness.commands.{found.name}")
        own = sub.add_parser(found.name, help=module.HELP, description=module.__doc__)
        if asked in (None, found.name):
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
    words = sys.argv[1:] if argv is None else list(argv)
    options = parser(words[0] if words and not words[0].startswith("-") else None).parse_args(words)
    # A gateway has a way of its own to end.
    ends = () if options.command == "gateway" else (signal.SIGTERM, signal.SIGHUP)
    try:
        with _ended_by(*ends):
            if os.environ.get(HOST) and hasattr(options, "there"):
                return int(options.there(options, words))
            return int(options.main(options))
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
