"""Several generators on dask.distributed, started here or those of an existing cluster.

Dask carries the parts out and the results back, and tells which generators are left. It gets no
chance to send anything twice: each part may run on one worker only, without retries or work
stealing, and a generator makes no request before it is given a start, which happens once.

Needs the extra `lab`. Imported only where more than one process generates.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Future, LocalCluster, get_worker

from harness.errors import CoppiceError, UsageError
from harness.load import generator_side, loopback_tls
from harness.load.arrivals import Schedule
from harness.load.cluster import Cluster, connected, require_alike
from harness.load.fan_out import ClockOffset, Lost, Part, Work
from harness.load.generator import Outcome
from harness.load.generator_process import SETTINGS

START_S = 90.0
"""How long generators of this machine may take to start."""
LEAD_S = 0.5
"""How far ahead the start lies on which all agree: time to tell it to each of them."""
ROUND_TRIPS = 11
SILENT_S = 20.0
"""A generator that has reported nothing for so long is lost; it reports every second."""
RESULT_S = 60.0
"""How long the results of a generator may take on their way."""
POLL_S = 0.5
MODULE = "harness.load.generator_process"


class Generators:
    """Generators that wait for work. `names` are their names, and `addresses` those of their
    workers, in the same order. `processes` are those that were started here, by address."""

    def __init__(
        self,
        cluster: Cluster,
        count: int | None,
        silent_s: float = SILENT_S,
        processes: Mapping[str, subprocess.Popen[bytes]] | None = None,
    ) -> None:
        self._cluster, self._silent_s, self._processes = cluster, silent_s, processes or {}
        found = cluster.workers()
        if count is None:
            count = len(found)
        if not 0 < count <= len(found):
            raise UsageError(
                f"the cluster at {cluster.where} has {len(found)} workers, not {max(count, 1)}",
                hint="coppice run ... --generators N   (or start more: dask worker ADDRESS)",
            )
        self.addresses = found[:count]
        self.scheduler = cluster.where
        self.names = [f"generator {number}" for number in range(1, count + 1)]

    def __len__(self) -> int:
        return len(self.addresses)

    def workers(self) -> int:
        """How many workers the cluster has, whether they are used or not."""
        return len(self._cluster.workers())

    def process_ids(self) -> Sequence[int]:
        """The processes of the generators."""
        return [self._cluster.ask(generator_side.process_id, of=each) for each in self.addresses]

    def offsets(self) -> Sequence[ClockOffset | None]:
        """What the clock of each generator shows more than ours; None of one that is lost."""
        return [self._offset(address) for address in self.addresses]

    def _offset(self, address: str) -> ClockOffset | None:
        readings = []
        for _ in range(ROUND_TRIPS):
            before = time.perf_counter()
            there = self._cluster.ask(generator_side.clock, of=address)
            after = time.perf_counter()
            if there is None:
                return None
            readings.append((before, there, after))
        return ClockOffset.measured(readings)

    def _give_up(self, number: int) -> bool:
        """End the process of a lost generator, if it was started here: should it go on one day, it
        must make nothing more. Whether it was started here."""
        process = self._processes.get(self.addresses[number])
        if process:
            process.kill()
        return process is not None

    def carry_out(
        self,
        work: Work,
        parts: Sequence[Schedule],
        show: Callable[[str], None] = lambda text: None,
    ) -> Sequence[Part]:
        """Carry out one part on each generator, from one start; what each of them delivered.

        Raises what a part raises. When this is interrupted or fails, the other parts are stopped.
        """
        before = self.offsets()
        storm = _Storm(self._cluster, self.addresses, before, show, self._silent_s, self._give_up)
        outcomes = storm.carry_out(work, parts)
        after = [
            None if isinstance(outcome, str) else self._offset(address)
            for address, outcome in zip(self.addresses, outcomes, strict=True)
        ]
        return [
            Part(
                name,
                Lost(name, outcome) if isinstance(outcome, str) else outcome,
                first or ClockOffset(0.0, 0.0),
                second,
            )
            for name, outcome, first, second in zip(
                self.names, outcomes, before, after, strict=True
            )
        ]


class _Storm:
    """One storm under way, as the control side sees it."""

    def __init__(
        self,
        cluster: Cluster,
        addresses: Sequence[str],
        offsets: Sequence[ClockOffset | None],
        show: Callable[[str], None],
        silent_s: float,
        give_up: Callable[[int], bool],
    ) -> None:
        self._cluster, self._client = cluster, cluster.client
        self._addresses, self._offsets = addresses, offsets
        self._show, self._silent_s, self._give_up = show, silent_s, give_up
        self._id = secrets.token_hex(8)
        self._topic = f"coppice-{self._id}"
        self._heard: dict[int, float] = {}
        self._ready: set[int] = set()
        self._anew: set[int] = set()
        self._begun = False
        self._reached: dict[str, set[int]] = {}
        self._entered: set[str] = set()
        self._events: queue.SimpleQueue[tuple[int, Mapping[str, Any]]] = queue.SimpleQueue()

    def carry_out(self, work: Work, parts: Sequence[Schedule]) -> Sequence[Outcome | str]:
        """The outcome of each part, or why its generator is lost."""
        self._client.subscribe_topic(self._topic, lambda event: self._events.put(event[1]))
        outcomes: dict[int, Outcome | str] = {}
        pending: dict[int, Future] = {}
        try:
            for number, part in enumerate(parts):
                if self._offsets[number] is None:
                    outcomes[number] = "it did not answer before the start"
                    self._give_up(number)
                    continue
                self._heard[number] = time.perf_counter()
                pending[number] = self._client.submit(
                    _carry_out, self._id, number, self._topic, work, part,
                    workers=[self._addresses[number]], allow_other_workers=False, pure=False,
                    retries=0, key=f"{self._topic}-{number}",
                )  # fmt: skip
            while pending:
                self._listen()
                for number, outcome in self._ended(pending).items():
                    if isinstance(outcome, str) and not self._give_up(number):
                        self._send(generator_side.stop, [number])
                    pending.pop(number).release()
                    outcomes[number] = outcome
                self._go_on(pending)
            return [outcomes[number] for number in range(len(parts))]
        finally:
            self._send(generator_side.stop, pending)
            for future in pending.values():
                future.release()
            with contextlib.suppress(ValueError):
                self._client.unsubscribe_topic(self._topic)

    def _listen(self) -> None:
        """Take what the generators have reported; waits a moment for the first report."""
        with contextlib.suppress(queue.Empty):
            number, report = self._events.get(timeout=POLL_S)
            while True:
                self._heard[number] = time.perf_counter()
                if "ready" in report:
                    (self._anew if number in self._ready else self._ready).add(number)
                if stage := report.get("reached"):
                    self._reached.setdefault(stage, set()).add(number)
                number, report = self._events.get_nowait()

    def _ended(self, pending: Mapping[int, Future]) -> Mapping[int, Outcome | str]:
        """The parts that have ended, or whose generators are lost. Raises what a part raised."""
        ended: dict[int, Outcome | str] = {}
        left = self._cluster.workers()
        now = time.perf_counter()
        for number, future in pending.items():
            status = future.status
            if status == "finished":
                try:
                    ended[number] = future.result(timeout=RESULT_S)
                except TimeoutError:
                    ended[number] = f"its results did not arrive within {RESULT_S:g} s"
            elif self._addresses[number] not in left:
                ended[number] = "its process is gone"
            elif number in self._anew:
                ended[number] = "it received its part a second time, and did not carry it out"
            elif status == "error":
                raise future.exception()
            elif status != "pending":
                ended[number] = f"its task was {status}"
            elif now - self._heard[number] > self._silent_s:
                ended[number] = f"it has reported nothing for {self._silent_s:g} s"
        return ended

    def _go_on(self, pending: Mapping[int, object]) -> None:
        """Let the generators that are left begin once all are ready, and enter each stage that all
        of them have reached."""
        if not self._begun and pending and self._ready >= pending.keys():
            self._begun = True
            at = time.perf_counter() + LEAD_S
            known = ((number, self._offsets[number]) for number in pending)
            starts = {number: at + offset.seconds for number, offset in known if offset}
            self._send(partial(generator_side.begin, starts=starts), pending)
        for stage, reached in self._reached.items():
            if pending and stage not in self._entered and reached >= pending.keys():
                self._entered.add(stage)
                self._show(f"{len(pending)} generators: {stage}")
                self._send(partial(generator_side.enter, stage=stage), pending)

    def _send(self, function: Callable[[str], None], to: Iterable[int]) -> None:
        self._cluster.tell(function, self._id, to=[self._addresses[n] for n in to])


def _carry_out(id: str, number: int, topic: str, work: Work, part: Schedule) -> Outcome:
    """The task of a worker."""
    worker = get_worker()

    def report(what: dict[str, Any]) -> None:
        worker.log_event(topic, (number, what))

    return generator_side.carry_out(id, number, work, part, report)


@contextlib.contextmanager
def opened(
    count: int | None,
    scheduler: str | None,
    environment: Mapping[str, str],
    directory: Path,
    silent_s: float = SILENT_S,
) -> Iterator[Generators]:
    """The generators of an existing cluster, or `count` that are started here, until the block
    ends.

    `environment` is that of processes started here, and `directory` has room for their logs. One
    that reports nothing for `silent_s` seconds is lost. Raises HostError and UsageError.
    """
    if scheduler:
        with connected(scheduler) as found:
            generators = Generators(found, count, silent_s)
            require_alike(found, generators.addresses)
            yield generators
        return
    with (
        tempfile.TemporaryDirectory(prefix="generators-", dir=directory) as name,
        dask.config.set(
            {
                **SETTINGS,
                "distributed.scheduler.work-stealing": False,
                "temporary-directory": name,  # else one outlives this process after a SIGKILL
            }
        ),
        LocalCluster(
            n_workers=0, processes=False, protocol="tls://", host="127.0.0.1",
            security=loopback_tls.create(Path(name)), silence_logs=logging.ERROR,
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        ) as cluster,
        Client(cluster) as client,
        _processes(
            count or 1, cluster.scheduler_address, environment, Path(name)
        ) as (log, processes),
    ):  # fmt: skip
        try:
            client.wait_for_workers(count or 1, timeout=START_S)
        except TimeoutError as error:
            raise CoppiceError(
                f"not all of {count} generators have started within {START_S:.0f} s: "
                f"{log.read_text(errors='replace', encoding='utf-8')[-2000:]}"
            ) from error
        started = Cluster(client, cluster.scheduler_address)
        by_id = {process.pid: process for process in processes}
        by_address = {
            address: by_id[id]
            for address in started.workers()
            if (id := started.ask(generator_side.process_id, of=address)) in by_id
        }
        yield Generators(started, count, silent_s, by_address)


@contextlib.contextmanager
def _processes(
    count: int, scheduler: str, environment: Mapping[str, str], directory: Path
) -> Iterator[tuple[Path, Sequence[subprocess.Popen[bytes]]]]:
    """Generators of this machine, which end with the block, and the file of what they log."""
    processes: list[subprocess.Popen[bytes]] = []
    log = directory / "log"
    try:
        with log.open("ab") as output:
            for _ in range(count):
                processes.append(
                    subprocess.Popen(
                        (sys.executable, "-m", MODULE, scheduler, str(directory)),
                        env=dict(environment), stdin=subprocess.DEVNULL,
                        stdout=output, stderr=output, process_group=0,
                    )
                )  # fmt: skip
        yield log, processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
