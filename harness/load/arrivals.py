"""When the requests of a storm are due: schedules made from a seed, named ones, and trace files.

A trace file has one JSON object a line. The first line names the format and how the schedule was
made; each further line is one arrival: `at_s`, seconds from the start, in order, and optionally
`lifetime_s` and `kind`.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import random
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from harness import option_types, strict_json
from harness.errors import UsageError
from harness.host import output_file

FORMAT = "coppice.arrivals/1"
MOST = 1_000_000
"""Arrivals in a schedule."""
LONGEST_S = 24 * 3600.0
LONGEST_LINE = 4096
LONGEST_KIND = 64
KIND = "default"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: when it is due, in seconds from the start, how long its sandbox is kept after it
    is usable, and of which kind it is. What a kind means is up to the caller."""

    at_s: float
    lifetime_s: float = 0.0
    kind: str = KIND


@dataclass(frozen=True)
class Lifetime:
    """Seconds that a sandbox is kept: uniform between two bounds."""

    low_s: float = 0.0
    high_s: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Lifetime:
        """`2` or `10,120`. Raises UsageError."""
        low, comma, high = text.partition(",")
        made = cls(option_types.decimal(low), option_types.decimal(high if comma else low))
        if not 0 <= made.low_s <= made.high_s <= LONGEST_S:
            raise UsageError(
                f"--lifetime {text}: not a number of seconds, or two in order",
                hint="such as --lifetime 2 or --lifetime 10,120",
            )
        return made

    def drawn(self, chance: random.Random) -> float:
        return self.low_s + chance.random() * (self.high_s - self.low_s)


@dataclass(frozen=True)
class Schedule:
    """Arrivals in order, and what they were made from.

    `arrivals` names the process that made them: constant, poisson, burst or trace. `rate` is the
    offered one, arrivals a second. `workload` is the name of a published schedule.
    """

    arrivals: str
    rate: float
    entries: Sequence[Arrival]
    seed: int | None = None
    workload: str | None = None

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def duration_s(self) -> float:
        """When the last arrival is due."""
        return self.entries[-1].at_s if self.entries else 0.0

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256 of all arrivals, in hexadecimal: equal for equal schedules."""
        hashed = hashlib.sha256()
        for line in _lines(self.entries):
            hashed.update(line.encode())
        return hashed.hexdigest()


def constant(
    rate: float,
    count: int,
    seed: int = 0,
    lifetime: Lifetime | None = None,
    kinds: Sequence[str] = (KIND,),
) -> Schedule:
    """One arrival every 1/rate seconds."""
    return _made("constant", (n / rate for n in range(count)), rate, seed, lifetime, kinds)


def poisson(
    rate: float,
    count: int,
    seed: int = 0,
    lifetime: Lifetime | None = None,
    kinds: Sequence[str] = (KIND,),
) -> Schedule:
    """Independent arrivals: the gaps are exponential, with a mean of 1/rate. The first is due at
    the start."""
    return _made("poisson", _independent(rate, count, seed), rate, seed, lifetime, kinds)


def burst(
    rate: float,
    count: int,
    seed: int = 0,
    lifetime: Lifetime | None = None,
    kinds: Sequence[str] = (KIND,),
) -> Schedule:
    """All arrivals of a second at its start: `rate` at once, then as many a second later."""
    size = max(1, round(rate))
    return _made(
        "burst", (n // size * size / rate for n in range(count)), rate, seed, lifetime, kinds
    )


PROCESSES: Mapping[str, Callable[..., Schedule]] = MappingProxyType(
    {"constant": constant, "poisson": poisson, "burst": burst}
)


@dataclass(frozen=True)
class Workload:
    """A published schedule: independent arrivals at a rate, and lifetimes."""

    count: int
    rate: float
    lifetime: Lifetime


WORKLOADS: Mapping[str, Workload] = MappingProxyType(
    {
        "burst": Workload(500, 50, Lifetime(10, 120)),
        "template_storm": Workload(300, 30, Lifetime(30, 90)),
        "mixed_spec": Workload(400, 10, Lifetime(30, 300)),
    }
)
"""The workloads of CubeSandbox's cube-bench, by its names for them: counts, rates and lifetimes as
it presets them, arrivals as it draws them (Poisson, the first at the start)."""


def workload(
    name: str, seed: int, lifetime: Lifetime | None = None, kinds: Sequence[str] = (KIND,)
) -> Schedule:
    """A named workload, with the lifetimes that it names unless others are given.

    Raises UsageError for an unknown name.
    """
    if name not in WORKLOADS:
        raise UsageError(
            f"no workload is named {name!r}", hint=f"one of: {', '.join(sorted(WORKLOADS))}"
        )
    preset = WORKLOADS[name]
    made = poisson(preset.rate, preset.count, seed, lifetime or preset.lifetime, kinds)
    return Schedule(made.arrivals, made.rate, made.entries, seed, name)


def chosen(
    arrivals: str,
    rate: float,
    count: int,
    seed: int = 0,
    lifetime: Lifetime | None = None,
    kinds: Sequence[str] = (KIND,),
    known: Collection[str] | None = None,
) -> Schedule:
    """The schedule that the options `--arrivals`, `--rate`, `--n` and `--lifetime` describe.

    `arrivals` is the name of a process or a trace file, which brings all the rest, and may have
    only `known` kinds if they are given. UsageError.
    """
    if arrivals not in PROCESSES:
        return load(Path(arrivals), known)
    require_possible(rate, count)
    return PROCESSES[arrivals](rate, count, seed, lifetime, kinds)


def require_possible(rate: float, count: int) -> None:
    """Raise UsageError for a rate and number of arrivals that are no schedule."""
    if not 0 < rate < math.inf or not 0 < count <= MOST or count / rate > LONGEST_S:
        raise UsageError(
            f"{count} arrivals at {rate:g} a second are no schedule: 1 to {MOST} arrivals within "
            f"{LONGEST_S / 3600:g} hours"
        )


def dump(schedule: Schedule, path: Path) -> None:
    """Write a schedule as a trace file. Raises PathError or DiskFull."""
    head = {
        "format": FORMAT,
        "arrivals": schedule.arrivals,
        "rate": schedule.rate,
        "seed": schedule.seed,
        "workload": schedule.workload,
    }
    lines = (strict_json.dumps(head) + "\n", *_lines(schedule.entries))
    output_file.replace(path, lambda made: made.write_text("".join(lines), encoding="utf-8"))


def load(path: Path, known: Collection[str] | None = None) -> Schedule:
    """Read a trace file, whose kinds must be `known` if these are given. Raises UsageError with the
    file and line of the first fault."""
    entries: list[Arrival] = []
    head = True
    try:
        with _opened(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
                try:
                    if head:
                        _check_head(_parsed(line))
                        head = False
                    else:
                        last = entries[-1].at_s if entries else 0.0
                        entries.append(_arrival(_parsed(line), last, known))
                    if len(entries) > MOST:
                        raise ValueError(f"more than {MOST} arrivals")
                except ValueError as error:
                    raise UsageError(f"{path}, line {number}: {error}") from error
    except OSError as error:
        raise UsageError(
            f"the trace file {path} cannot be read: {error.strerror}",
            hint=f"--arrivals takes a file, or one of: {', '.join(PROCESSES)}",
        ) from error
    if not entries:
        raise UsageError(f"{path} has no arrivals")
    span = entries[-1].at_s
    # Of n arrivals, n - 1 gaps are known.
    rate = (len(entries) - 1) / span if span else float(len(entries))
    return Schedule("trace", rate, tuple(entries))


def _opened(path: Path) -> BinaryIO:
    """A regular file: a pipe or a device may have no end, or never begin."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is no regular file")
    return os.fdopen(descriptor, "rb")


def _parsed(line: bytes) -> Mapping[str, Any]:
    if len(line) > LONGEST_LINE:
        raise ValueError(f"longer than {LONGEST_LINE} bytes")
    data = strict_json.loads(line)
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    return data


def _check_head(data: Mapping[str, Any]) -> None:
    if data.get("format") != FORMAT:
        raise ValueError(f'the first line must have "format": "{FORMAT}"')


def _arrival(data: Mapping[str, Any], last: float, known: Collection[str] | None) -> Arrival:
    if unknown := sorted(data.keys() - {"at_s", "lifetime_s", "kind"}):
        raise ValueError(f"{unknown[0][:40]!r} is unknown; at_s, lifetime_s and kind are known")
    at_s = _seconds(data, "at_s", None)
    if at_s < last:
        raise ValueError(f"at_s {at_s:g} is before {last:g}, that of the line above")
    kind = data.get("kind", KIND)
    if not isinstance(kind, str) or not 0 < len(kind) <= LONGEST_KIND or not kind.isprintable():
        raise ValueError(f"kind is not a text of 1 to {LONGEST_KIND} printable characters")
    if known is not None and kind not in known:
        raise ValueError(f"the kind {kind!r} is unknown; known: {', '.join(known)}")
    return Arrival(at_s, _seconds(data, "lifetime_s", 0.0), kind)


def _seconds(data: Mapping[str, Any], name: str, otherwise: float | None) -> float:
    value = data.get(name, otherwise)
    if value is None and name not in data:
        raise ValueError(f"{name} is missing")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is not a number")
    if not 0 <= value <= LONGEST_S:
        raise ValueError(f"{name} is not between 0 and {LONGEST_S:g} seconds")
    return float(value)


def _lines(entries: Sequence[Arrival]) -> Iterator[str]:
    for each in entries:
        data = {"at_s": each.at_s, "lifetime_s": each.lifetime_s, "kind": each.kind}
        yield strict_json.dumps(data) + "\n"


def _independent(rate: float, count: int, seed: int) -> Iterator[float]:
    # A generator of its own: lifetimes and kinds do not move the arrivals.
    chance = random.Random(f"arrivals {seed}")
    at_s = 0.0
    for _ in range(count):
        yield at_s
        at_s += chance.expovariate(rate)


def _made(
    arrivals: str,
    times: Iterator[float],
    rate: float,
    seed: int,
    lifetime: Lifetime | None,
    kinds: Sequence[str],
) -> Schedule:
    chance = random.Random(f"sandboxes {seed}")
    kept = lifetime or Lifetime()
    entries = tuple(Arrival(at_s, kept.drawn(chance), chance.choice(kinds)) for at_s in times)
    return Schedule(arrivals, rate, entries, seed)
