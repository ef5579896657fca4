"""Shows every external command as a line that can be pasted, with how it ended.

`coppice -v` and COPPICE_LOG=1 write to stderr; any other value of COPPICE_LOG is a file, which
lines are added to. A command is shown when it starts; a comment follows when it has ended:

    mkfs.ext4 -q -F disk  # pid 4711
    # pid 4711: exit 0, 0.042 s: mkfs.ext4

Off, this module does nothing: no call site asks it. On, `subprocess.Popen` is replaced by a
subclass, so that no place that starts a program, in this package or in a rig of another, can be
forgotten. Programs that are started without `subprocess` are announced with `announced`. While a
rig measures, lines wait (`hold`) until no clock runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

VARIABLE = "COPPICE_LOG"
HIDDEN = "(hidden)"
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSPHRASE|PASSWD|CREDENTIAL", re.I)
_SECRETS = (
    (re.compile(r"\be2b_[0-9A-Za-z]{8,}"), HIDDEN),
    (re.compile(r"(://[^/@:\s]+):[^/@\s]+@"), rf"\1:{HIDDEN}@"),
    (re.compile(r"((?:X-API-KEY|Authorization|X-Access-Token)\s*:\s*)[^\r\n'\"]+", re.I),
     rf"\1{HIDDEN}"),
    (re.compile(r"(--?[\w-]*(?:password|token|secret|api-key)[= ])\S+", re.I), rf"\1{HIDDEN}"),
)  # fmt: skip
_SHELLS_OWN = ("PWD", "OLDPWD", "SHLVL", "_")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_log: _Log | None = None
_shown_as: ContextVar[Sequence[str] | None] = ContextVar("shown_as", default=None)


def redacted(text: str) -> str:
    """A text without what looks like an API key, a password or a token."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def start(value: str | None = None) -> None:
    """Log from now on if COPPICE_LOG, or `value`, asks for it. Children inherit the variable."""
    global _log
    if value is not None:
        os.environ[VARIABLE] = value
    where = os.environ.get(VARIABLE, "")
    if _log is not None or where in ("", "0"):
        return
    if where == "1":
        # A descriptor of its own: pytest captures what is written to number 2.
        handle = os.dup(2)
    else:
        path = Path(where).absolute()
        os.environ[VARIABLE] = str(path)  # a child may run in another directory
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            print(f"coppice: {VARIABLE}={where}: {error.strerror}", file=sys.stderr)
            return
    _log = _Log(handle)
    subprocess.Popen = _Popen  # type: ignore[misc]


def hold() -> None:
    """Keep lines back until `flush` or `release`: a clock runs."""
    if _log is not None:
        _log.held = True


def flush() -> None:
    """Write what was held back; no clock runs now, but one may again."""
    if _log is not None:
        _log.write()


def release() -> None:
    """Write at once again."""
    if _log is not None:
        _log.held = False
        _log.write()


@contextlib.contextmanager
def shown_as(argv: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Show the block's command, which cannot be pasted, as one that does the same."""
    if _log is None:
        yield
        return
    token = _shown_as.set(argv())
    try:
        yield
    finally:
        _shown_as.reset(token)


@contextlib.contextmanager
def announced(argv: Sequence[str], cwd: str | None = None) -> Iterator[None]:
    """A program that the block runs to its end without `subprocess`."""
    log = _log
    if log is None:
        yield
        return
    entry = _Entry(argv, cwd, None, ())
    log.add(entry.start_line)
    try:
        yield
    except BaseException as error:
        entry.end(getattr(error, "exit_code", type(error).__name__))
        raise
    else:
        entry.end(0)
    finally:
        log.add(entry.end_line)


class _Entry:
    """One command, from its start to its end; its two lines are made when they are written."""

    def __init__(
        self, argv: Any, cwd: Any, env: Mapping[Any, Any] | None, notes: Sequence[str]
    ) -> None:
        self._argv, self._cwd, self._env, self._notes = argv, cwd, env, notes
        self.pid: int | None = None
        self._started = time.perf_counter()
        self._ended = self._started
        self._code: object = None

    def end(self, code: object) -> None:
        self._ended = time.perf_counter()
        self._code = code

    def start_line(self) -> str:
        pid = [f"pid {self.pid}"] if self.pid is not None else []
        notes = ", ".join([*pid, *self._notes])
        return line(self._argv, self._cwd, self._env) + (f"  # {notes}" if notes else "")

    def end_line(self) -> str:
        code, who = self._code, f"pid {self.pid}: " if self.pid is not None else ""
        how = f"signal {-code}" if isinstance(code, int) and code < 0 else f"exit {code}"
        program = redacted(_quoted(_words(self._argv)[0]))
        return f"# {who}{how}, {self._ended - self._started:.3f} s: {program}"


class _Log:
    """Writes lines in the order of their events, each by one system call."""

    def __init__(self, handle: int) -> None:
        self.held = False
        self._handle = handle
        self._waiting: deque[Callable[[], str]] = deque()
        self._lock = threading.RLock()  # a signal's handler may start a program too

    def add(self, made: Callable[[], str]) -> None:
        self._waiting.append(made)
        if not self.held:
            self.write()

    def write(self) -> None:
        with self._lock:
            while self._waiting:
                text = self._waiting.popleft()()
                with contextlib.suppress(OSError):  # the reader of stderr may be gone
                    os.write(self._handle, f"{text}\n".encode(errors="replace"))


class _Popen(subprocess.Popen):  # type: ignore[type-arg]
    """`subprocess.Popen` that tells the log when a program starts and when its end is seen."""

    _entry: _Entry | None = None

    def __init__(self, args: Any, *more: Any, **options: Any) -> None:
        instead = _shown_as.get()
        entry = _Entry(
            args if instead is None else instead,
            options.get("cwd") if instead is None else None,
            options.get("env") if instead is None else None,
            _notes(options) if instead is None else (),
        )
        try:
            super().__init__(args, *more, **options)
        except BaseException as error:
            if isinstance(error, OSError):
                entry.end(f"none, not started ({error.strerror})")
                _tell(entry.start_line)
                _tell(entry.end_line)
            raise
        entry.pid = self.pid
        self._entry = entry
        _tell(entry.start_line)

    def poll(self) -> int | None:
        code = super().poll()
        if code is not None:
            self._see_end(code)
        return code

    def wait(self, timeout: float | None = None) -> int:
        code = super().wait(timeout)
        self._see_end(code)
        return code

    def _see_end(self, code: int) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            entry.end(code)
            _tell(entry.end_line)


def _tell(made: Callable[[], str]) -> None:
    if _log is not None:
        _log.add(made)


def _notes(options: Mapping[str, Any]) -> Sequence[str]:
    """What a shell would not do the same way."""
    notes = []
    if options.get("stdin") == subprocess.PIPE:
        notes.append("reads a pipe")
    elif isinstance(options.get("stdin"), int) and options["stdin"] >= 0:
        notes.append(f"reads descriptor {options['stdin']}")
    if inherited := options.get("pass_fds"):
        notes.append(f"inherits descriptors {' '.join(map(str, inherited))}")
    return notes


def line(argv: Any, cwd: Any = None, env: Mapping[Any, Any] | None = None) -> str:
    """One line of shell that runs a command as it was run: where, and with which variables more."""
    if isinstance(argv, str):
        text = argv if not _CONTROL.search(argv) else f"sh -c {_quoted(argv)}"
    else:
        text = " ".join(map(_quoted, _words(argv)))
    if more := _variables(env):
        text = f"{more} {text}" if not isinstance(argv, str) else f"{more} sh -c {_quoted(argv)}"
    if cwd is not None and not _is_here(os.fsdecode(cwd)):
        text = f"(cd {_quoted(os.fsdecode(cwd))} && {text})"
    return redacted(text)


def _is_here(directory: str) -> bool:
    try:
        return Path(directory).samefile(".")
    except OSError:
        return False


def _words(argv: Any) -> list[str]:
    if isinstance(argv, str | bytes | os.PathLike):
        return [os.fsdecode(argv)]
    return [os.fsdecode(word) for word in argv] or [""]


def _variables(env: Mapping[Any, Any] | None) -> str:
    """The variables that differ from this process's own. What a child lacks is not shown."""
    if env is None:
        return ""
    own = {os.fsdecode(name): os.fsdecode(value) for name, value in env.items()}
    return " ".join(
        f"{name}={_quoted(HIDDEN if _SECRET_NAME.search(name) else value)}"
        for name, value in own.items()
        if os.environ.get(name) != value and name not in _SHELLS_OWN
    )


def _quoted(word: str) -> str:
    """A word as a shell reads it, on one line whatever is in it."""
    if not _CONTROL.search(word):
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return "$'" + _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", escaped) + "'"
