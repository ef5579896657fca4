"""The options that storms share, on substrates and on services behind an API."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from harness import option_types
from harness.errors import UsageError
from harness.load import arrivals
from harness.load.arrivals import KIND, PROCESSES, WORKLOADS, Lifetime, Schedule
from harness.load.generator import LIMIT
from harness.measure.record import Image, Scalar

SEED = 1
"""The same arrivals in each run, unless another seed is given."""
BOUND_S = 0.3
OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "arrivals": f"{', '.join(PROCESSES)}, or a trace file (default: poisson)",
        "rate": "arrivals a second; the first rate of a sweep",
        "n": "how many arrivals",
        "workload": f"a published schedule instead: {', '.join(WORKLOADS)}",
        "seed": f"the seed of the arrivals (default: {SEED})",
        "lifetime": "seconds that each sandbox is kept, such as 2 or 10,120 (default: 0)",
        "hold": "hold so many sandboxes alive until all are there, and ask each a second time",
        "most": f"sandboxes of a generator alive at once at most (default: {LIMIT})",
        "bound": "the latency that a sweep keeps to, such as 300ms (default)",
        "step": "how long a sweep offers each rate, such as 20s: long enough to empty any pool",
    }
)
FLAGS: Mapping[str, str] = MappingProxyType(
    {"sweep": "offer one rate after the other and find the capacity"}
)


@dataclass(frozen=True)
class StormOptions:
    """What was asked for. `fixed` is the schedule of a trace file or a workload."""

    arrivals: str
    rate: float
    count: int
    seed: int
    lifetime: Lifetime | None
    kinds: Sequence[str]
    hold: bool
    most: int
    bound_s: float
    step_s: float
    sweep: bool
    fixed: Schedule | None

    @classmethod
    def parse(
        cls,
        options: Mapping[str, str],
        rate: float,
        count: int,
        kinds: Sequence[str] = (KIND,),
        generators: int = 1,
        *,
        known: Sequence[str] | None = None,
        step_s: float = 1.0,
    ) -> StormOptions:
        """`rate` and `count` are for storms that name none, `step_s` for sweeps; a trace file
        may have only `known` kinds, if they are given. Raises UsageError."""
        process = options.get("arrivals", "poisson")
        fixed_by = "workload" if "workload" in options else None
        if process not in PROCESSES:
            fixed_by = "arrivals"
        for other in ("hold", "sweep", "rate", "n", "arrivals"):
            if fixed_by and other in options and other != fixed_by:
                raise UsageError(
                    f"--{other} does not go with --{fixed_by} {options[fixed_by]}, "
                    "which is a whole schedule"
                )
        for other in ("seed", "lifetime", "programs"):
            if fixed_by == "arrivals" and other in options:
                raise UsageError(
                    f"--{other} does not go with --arrivals {process}: a trace file has it all"
                )
        for other in ("step", "bound"):
            if other in options and "sweep" not in options:
                raise UsageError(f"--{other} is of a sweep", hint=f"add --sweep to --{other}")
        for other in ("sweep", "n", "lifetime"):
            if "hold" in options and other in options:
                raise UsageError(f"--{other} does not go with --hold: all are held to the end")
        if "sweep" in options and "n" in options:
            raise UsageError("--n does not go with --sweep, whose steps have a length in seconds")
        seed = _parsed(options, "seed", option_types.number(0), SEED)
        most = _parsed(options, "most", option_types.number(1), LIMIT)
        count = _parsed(options, "n", option_types.number(1), count)
        count = _parsed(options, "hold", option_types.number(1), count)
        if "hold" in options and count > most * generators:
            raise UsageError(
                f"--hold {count} is more than the {most} sandboxes that a generator keeps alive",
                hint=f"--most {math.ceil(count / generators)}",
            )
        lifetime = Lifetime.parse(options["lifetime"]) if "lifetime" in options else None
        made = cls(
            process,
            _parsed(options, "rate", option_types.rate, rate),
            count,
            seed,
            lifetime,
            kinds,
            "hold" in options,
            most,
            _parsed(options, "bound", _seconds, BOUND_S),
            _parsed(options, "step", _seconds, step_s),
            "sweep" in options,
            arrivals.workload(options["workload"], seed, lifetime, kinds)
            if fixed_by == "workload"
            else arrivals.load(Path(process), known)
            if fixed_by == "arrivals"
            else None,
        )
        # Refused before anything starts.
        if made.sweep:
            arrivals.require_possible(made.rate, max(1, round(made.rate * made.step_s)))
        elif not made.fixed:
            arrivals.require_possible(made.rate, made.count)
        return made

    @property
    def most_rate(self) -> float:
        """The highest rate at which a step of a sweep is a schedule."""
        return arrivals.MOST / self.step_s

    def schedule(self, rate: float | None = None, count: int | None = None) -> Schedule:
        """The arrivals: those asked for, or of a step of a sweep. Raises UsageError."""
        return self.fixed or arrivals.chosen(
            self.arrivals,
            rate or self.rate,
            count or self.count,
            self.seed,
            self.lifetime,
            self.kinds,
        )


def dimensions(schedule: Schedule) -> dict[str, Scalar]:
    """What distinguishes the series of a schedule."""
    named: dict[str, Scalar] = {"workload": schedule.workload} if schedule.workload else {}
    rate = round(schedule.rate, 3)
    return {
        "arrivals": schedule.arrivals,
        "rate": int(rate) if rate == int(rate) else rate,
        **named,
    }


def image(schedule: Schedule) -> Image:
    """The schedule as a record keeps it: by digest, and what makes it again."""
    seed = "" if schedule.seed is None else f", seed {schedule.seed}"
    return Image(
        f"arrivals: {len(schedule)} {schedule.arrivals} at {schedule.rate:g}/s{seed}",
        schedule.digest,
        {"n": len(schedule), "seed": schedule.seed, **dimensions(schedule)},
    )


T = TypeVar("T")


def _parsed(options: Mapping[str, str], name: str, parse: Callable[[str], T], otherwise: T) -> T:
    if name not in options:
        return otherwise
    try:
        return parse(options[name])
    except ArgumentTypeError as error:
        raise UsageError(f"--{name} {options[name]}: {error}") from error


def _seconds(text: str) -> float:
    """A duration such as 300ms, 0.3s or 0.3."""
    number, unit = (text[:-2], 1e-3) if text.endswith("ms") else (text.removesuffix("s"), 1.0)
    return option_types.rate(number) * unit
