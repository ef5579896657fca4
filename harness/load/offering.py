"""Offers a schedule: from this process, from several started here, or from those of a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from harness import extras
from harness.errors import UsageError
from harness.load import fan_out
from harness.load.arrivals import Schedule
from harness.load.fan_out import Alone, Merged, Part, Work
from harness.load.generator import on_fresh_loop
from harness.load.generator_side import allow_descriptors
from harness.measure.clock import without_collector


@dataclass(frozen=True)
class Offering:
    """`carry_out` takes the parts of a schedule, one for each of `generators`."""

    generators: int
    carry_out: Callable[[Work, Sequence[Schedule]], Sequence[Part]]

    def parts(self, schedule: Schedule) -> Sequence[Schedule]:
        """What each generator would get. Raises UsageError."""
        return fan_out.split(schedule, self.generators)

    def offer(self, work: Work, schedule: Schedule) -> Merged:
        """Carry out a schedule, and put together what became of it."""
        return fan_out.merged(schedule, self.carry_out(work, self.parts(schedule)))


@contextlib.contextmanager
def opened(
    count: int | None,
    scheduler: str | None,
    environment: Mapping[str, str],
    directory: Path,
    show: Callable[[str], None] = lambda text: None,
) -> Iterator[Offering]:
    """`count` generators until the block ends; None: all of the cluster at `scheduler`, or this
    process without one.

    `environment` is that of processes started here, and `directory` has room for their logs.
    Raises MissingTool where more than this process is to generate, and dask is not installed.
    """
    if scheduler is None and count in (None, 1):
        allow_descriptors()
        yield Offering(1, _here)
        return
    try:
        # Not at the top: dask is an extra, and slow to import.
        from harness.load import generators
    except ModuleNotFoundError as error:
        raise extras.missing("a storm from several generators", error, "lab") from error
    with generators.opened(count, scheduler, environment, directory) as found:
        yield Offering(len(found), lambda work, parts: found.carry_out(work, parts, show))


def _here(work: Work, parts: Sequence[Schedule]) -> Sequence[Part]:
    (part,) = parts
    with without_collector():
        return [Part("generator 1", on_fresh_loop(work(part, Alone())))]


def require_address(scheduler: str | None) -> None:
    """Raise UsageError for what is no address of a scheduler."""
    if scheduler is None:
        return
    try:
        parts = urlsplit(scheduler)
        good = parts.scheme in ("tcp", "tls") and parts.hostname and parts.port
    except ValueError:  # of brackets or a port
        good = False
    if not good or parts.path or parts.query or parts.fragment or parts.username is not None:
        raise UsageError(
            f"--scheduler {scheduler}: this is no address of a scheduler of dask",
            hint="--scheduler tcp://HOST:8786, or tls://HOST:8786",
        )


def require_private(scheduler: str | None, secret: str) -> None:
    """Raise UsageError where workers of another host would get a secret over a connection that is
    not encrypted."""
    parts = urlsplit(scheduler or "")
    host = parts.hostname or ""
    if parts.scheme == "tls" or not scheduler or host == "localhost":
        return
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise UsageError(
            f"--scheduler {scheduler}: {secret} would go there without encryption",
            hint=f"--scheduler tls://{parts.netloc or scheduler}   (dask's settings name its "
            "certificates)",
        )
