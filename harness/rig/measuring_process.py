"""The process in which `coppice run` measures: starts it, ends it on a signal, judges how it ended.

It has a session of its own, so that the terminal's signals reach only `coppice run`, which passes
them on. The kernel interrupts it when `coppice run` itself is killed (harness/rig/orphan.py).
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Self

from harness import interrupts
from harness.errors import CoppiceError, Interrupted, LimitReached
from harness.host.leftovers import reclaim
from harness.interrupts import TERMINATION
from harness.measure.facts_linux import oom_kills
from harness.measure.system import System
from harness.paths import runtime_directory
from harness.rig.orphan import interrupted_with_parent

NOTHING_COLLECTED = 5
"""pytest's exit code when no case was selected."""
PYTESTS_OWN = {
    2: "pytest stopped before the rigs were measured",
    3: "pytest itself failed",
    4: "pytest refused its command line",
}
"""Exit codes of pytest that neither a rig nor one of our errors causes."""
PYTESTS_PREFIX = "PYTEST_"
PYTHONS = {
    "PYTHONASYNCIODEBUG", "PYTHONDEBUG", "PYTHONDEVMODE", "PYTHONINSPECT", "PYTHONMALLOC",
    "PYTHONOPTIMIZE", "PYTHONPROFILEIMPORTTIME", "PYTHONTRACEMALLOC", "PYTHONVERBOSE",
    "PYTHONWARNDEFAULTENCODING", "PYTHONWARNINGS",
}  # fmt: skip
"""Variables that change what Python checks, prints or measures. PYTHONPATH is no such one:
`coppice` itself has found its packages by it."""


class _Forwarding:
    """Passes the first request to end on to a process, and kills it on the second.

    The handlers raise nothing: an exception while the process is being started would orphan it.
    """

    def __init__(self) -> None:
        self.killed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        interrupts.requests.forget()
        for number in TERMINATION:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:  # ignored by nohup, or in the background
                self._before[number] = before
                signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        """Forward signals to this process, including one that has come already."""
        self._process = process
        if interrupts.requests.first:
            process.send_signal(signal.SIGINT)

    def _handle(self, number: int, _: object) -> None:
        again = interrupts.requests.first is not None
        if not interrupts.requests.note(number) or not self._process:
            return
        if again:
            self.killed = True
            self._process.kill()
        else:
            self._process.send_signal(signal.SIGINT)


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run pytest and return its exit code.

    Raises Interrupted once everything is down after SIGINT, SIGTERM or SIGHUP; a second signal
    kills everything, for users who do not want to wait for an unresponsive guest. Raises
    LimitReached or CoppiceError where the process ended without a result.
    """
    kills = oom_kills(System()) if sys.platform == "linux" else None
    with (
        _Forwarding() as forwarding,
        subprocess.Popen(
            command,
            start_new_session=True,
            env={**own_environment(), **environment},
            preexec_fn=interrupted_with_parent(),
        ) as process,
    ):
        forwarding.watch(process)
        code = process.wait()
    if forwarding.killed or code < 0:
        reclaim(runtime_directory())
    if interrupts.requests.first:
        raise Interrupted(interrupts.requests.first)
    if code and _reader_has_gone():
        raise BrokenPipeError
    if code < 0:
        raise _ended_by(-code, kills)
    if code in PYTESTS_OWN:
        raise CoppiceError(f"{PYTESTS_OWN[code]}; its output is above")
    return code


def own_environment() -> dict[str, str]:
    """This process's environment without what the user has set for pytest and Python at other work:
    a measurement depends on the command line, and on nothing that was forgotten in a shell."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(PYTESTS_PREFIX) and name not in PYTHONS
    }


def _reader_has_gone() -> bool:
    """Whether standard output is a pipe that nothing reads any more."""
    output = select.poll()
    output.register(1, 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


def _ended_by(number: int, kills_before: int | None) -> CoppiceError | Interrupted:
    """Why the process was ended by a signal that `coppice run` did not send."""
    kept = "records that were complete are kept, and its sandboxes are removed"
    if number == signal.SIGKILL:
        kills = oom_kills(System()) if sys.platform == "linux" else None
        if kills_before is not None and kills is not None and kills > kills_before:
            return LimitReached(
                f"the kernel ran out of memory and killed the process that measured; {kept}",
                hint="dmesg tells which limit; measure fewer sandboxes at once, or raise the limit",
            )
    return Interrupted(number, f"the process that measured was ended by {_name(number)}; {kept}")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
