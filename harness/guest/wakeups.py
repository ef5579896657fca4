"""Finds what wakes an idle guest, from its kernel's trace of timers and work items.

Tracing is work for the guest itself, so it is done in one guest, after all other measurements.
"""

from __future__ import annotations

import re
import time
from collections import Counter

from harness.errors import SandboxError
from harness.guest.agent_client import Agent

_DIRECTORY = "/sys/kernel/tracing"
_TRACE = "/run/trace"
_EVENTS = "timer/timer_expire_entry timer/hrtimer_expire_entry workqueue/workqueue_execute_start"
_START = (
    f"mkdir -p {_DIRECTORY}; mount -t tracefs none {_DIRECTORY} 2>/dev/null; cd {_DIRECTORY} && "
    f"for event in {_EVENTS}; do echo 1 > events/$event/enable || exit 1; done; echo > trace"
)
_STOP = f"cd {_DIRECTORY} && echo 0 > tracing_on && cat trace > {_TRACE}"
_LINE = re.compile(
    r"^.{16}-\d+\s+\[\d+\]\s+\S+\s+(?P<at>[\d.]+): \w+: .*?\bfunction[ =](?P<function>\w+)", re.M
)
_SETTLE_S = 1.0
"""Seconds ignored at the start, while the shell that started the trace exits."""


def can_trace(agent: Agent) -> bool:
    """Whether the guest's kernel has tracing, which a slim one has not."""
    return agent.run(("/bin/sh", "-c", f"test -d {_DIRECTORY}")).code == 0


def trace(agent: Agent, seconds: float) -> dict[str, float]:
    """Calls per second of each function in an idle guest, most frequent first.

    SandboxError when the guest's kernel cannot trace.
    """
    _shell(agent, _START)
    time.sleep(seconds + _SETTLE_S)
    _shell(agent, _STOP)
    return count(agent.read_file(_TRACE).decode(errors="replace"), seconds)


def _shell(agent: Agent, command: str) -> None:
    done = agent.run(("/bin/sh", "-c", command))
    if done.code:
        message = done.stderr.decode(errors="replace").strip()
        raise SandboxError(f"cannot trace the guest's kernel: {message}")


def count(text: str, seconds: float) -> dict[str, float]:
    """Calls per second of each function in a trace, over `seconds` after the settling time."""
    seen = [(float(line["at"]), line["function"]) for line in _LINE.finditer(text)]
    if not seen:
        return {}
    start = seen[0][0] + _SETTLE_S
    counted = Counter(function for at, function in seen if start <= at < start + seconds)
    return {function: number / seconds for function, number in counted.most_common()}
