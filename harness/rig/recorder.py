"""The run of one rig: everything around the measurement, which becomes its record.

A rig calls `prepared`, `begin`, `end` and `write` in this order. The state of the machine is read
before and after; the record says when a measurement was disturbed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from harness import command_log, paths
from harness.errors import DiskFull, LimitReached, PathError
from harness.host.run import new_run_id
from harness.measure import benchmark as adaptor
from harness.measure import conditions, machine, provenance, used_images, validity, wall_clock
from harness.measure.endpoint_facts import EndpointFacts
from harness.measure.record import (
    NOT_OFFERED,
    Clock,
    Facts,
    Image,
    Machine,
    RunRecord,
    Series,
    Validity,
    digest,
    encoded,
    write,
)
from harness.measure.storage import keep_elsewhere
from harness.rig import discovery, guest_kernel, kvm_facts, tasks
from harness.rig import origin as origins
from harness.rig.info import RigInfo
from harness.rig.stages import BEGUN, ENDED, WRITTEN
from harness.rig.tasks import Options


def given_options(pairs: Sequence[str]) -> dict[str, str]:
    """The options that pytest was given as `--set NAME=VALUE`."""
    return dict(pair.partition("=")[::2] for pair in pairs)


class RigRun:
    """Collects what a record contains besides its series. `results` is where the record goes.

    `options` are the values given for options that rigs declare (`RigInfo.options`); `own_cpu_s`
    returns the CPU seconds of all our processes, if a control group counts them.
    """

    def __init__(
        self,
        results: Path,
        profile: str,
        options: Mapping[str, str] | None = None,
        show_progress: Callable[[str], None] = lambda text: None,
        own_cpu_s: Callable[[], float] | None = None,
        announce: Callable[[str], object] = lambda stage: None,
        tell: Callable[[str], object] = lambda text: None,
    ) -> None:
        self._results = results
        self._profile = profile
        self._options = options or {}
        self.show_progress = show_progress
        """Shows the progress of a long measurement; to be called between two samples."""
        self.tell = tell
        """Shows a line that stays, such as what will be made at a service."""
        self.announce = announce
        """Announces a stage (harness/rig/stages.py); to be called while no clock runs."""
        self._images: Sequence[Image] = ()
        used_images.forget()
        self._accelerator: str | None = None
        self._accelerators: Mapping[str, str | None] = {}
        self._tools: Sequence[str] = ()
        self._started, self._begun = datetime.now(UTC), time.monotonic()
        self._before: Facts = {}
        self._after: Facts = {}
        self._own_cpu = validity.OwnCpu(own_cpu_s)
        self.run_id = new_run_id()
        self.headline: Series | None = None
        """The main series of the measurement, once delivered."""
        self.record: Path | None = None
        """The record's file, once written."""
        self.status = ""
        """Whether the record is valid, suspect or failed, once written."""
        self.doubts: Sequence[str] = ()
        """Why the record is not valid, once written; empty if it is."""
        self.failed = False
        """Whether anything that was to be measured failed, once written."""

    @property
    def options(self) -> Mapping[str, str]:
        """The options that were given, by name; empty ones count as not given."""
        return {name: value for name, value in self._options.items() if value}

    def option(self, name: str) -> str | None:
        """The value given for an option of this rig; None without one."""
        return self._options.get(name)

    def prepared(
        self,
        images: Sequence[Image],
        accelerator: str | None,
        tools: Sequence[str],
        accelerators: Mapping[str, str | None] | None = None,
    ) -> None:
        """Note the sandboxes' images, what runs their guests (None: they are no guests of a VMM),
        and the programs whose versions belong on the record.

        A rig of several substrates has `accelerators` for each of them by name.
        """
        self._images, self._accelerator, self._tools = images, accelerator, tools
        self._accelerators = accelerators or {}

    def begin(self) -> None:
        """Set-up and warm-up are over: from here on disturbances count."""
        wall_clock.watch.begin()
        self._begun = time.monotonic()
        self._started = datetime.now(UTC)
        self._before = machine.state()
        self._own_cpu.__enter__()
        self.announce(BEGUN)
        command_log.hold()

    def end(self) -> None:
        """The last sample is taken."""
        self._own_cpu.__exit__(None, None, None)
        self._after = machine.state()
        command_log.release()
        self.announce(ENDED)

    def write(
        self,
        rig: RigInfo,
        file: Path,
        series: Sequence[Series],
        clock: Clock,
        repeat: Options | None = None,
        broken: Sequence[str] = (),
        doubts: Sequence[str] = (),
        endpoint: EndpointFacts | None = None,
    ) -> Path:
        """Judge the run's validity and store its record; returns the record's path.

        `repeat` are the options that select this measurement among the rig's; the command that
        repeats it also gets the profile and the options that the user gave for the rig.
        `broken` says why the run failed although it has samples, `doubts` why it is suspect for
        what the rig itself has seen. `endpoint` is the service that was measured, if one was.
        """
        origin = origins.of(file)
        ours = {rig.id: discovery.Rig(file, rig)} if origin.root == paths.CHECKOUT else {}
        declared = (*rig.options, *rig.flags)  # in this order, so that the same run is told alike
        given = {name: self._options[name] for name in declared if self._options.get(name)}
        again = {**given, **(repeat or {}), "profile": self._profile}
        host = dataclasses.replace(
            machine.describe(self._accelerator), before=self._before, after=self._after
        )
        host = kvm_facts.described(host, series, self._accelerators)
        judged = validity.judge(
            self._before,
            self._after,
            self._own_cpu.seconds,
            self._own_cpu.elapsed_s,
            origin.git,
            series,
            wall_clock.watch.reasons(),
        )
        if doubts:
            status = "suspect" if judged.status == "valid" else judged.status
            judged = Validity(status, (*doubts, *judged.reasons))
        if broken:
            judged = Validity("failed", (*broken, *judged.reasons))
        # Not read again: the wall clock may have been set meanwhile.
        elapsed = timedelta(seconds=time.monotonic() - self._begun)
        self.doubts = judged.reasons
        self.failed = judged.status == "failed" or any(
            failure.kind != NOT_OFFERED for one in series for failure in one.failures
        )
        record = RunRecord(
            run_id=self.run_id,
            started=provenance.utc_now(self._started),
            finished=provenance.utc_now(self._started + elapsed),
            profile=self._profile,
            rig=provenance.rig(rig.id, file, origin.root, origin.distribution),
            claims=rig.claims,
            command=provenance.command(tasks.repeat(discovery.table(ours), rig.id, again)),
            git=origin.git,
            patches=provenance.patches(),
            images=used_images.and_used(self._images),
            machine=host,
            clock=clock,
            series=[self._with_conditions(one, host) for one in self._with_kernel(series)],
            validity=judged,
            tools=provenance.tools(self._tools) | origins.packages(series),
            harness=provenance.harness(),
            endpoint=endpoint,
        )
        self.record, self.status = self._store(record), judged.status
        self.announce(WRITTEN)
        return self.record

    def _with_kernel(self, series: Sequence[Series]) -> Sequence[Series]:
        choice = guest_kernel.named(self._images)
        return [guest_kernel.marked(one, choice) for one in series]

    def _with_conditions(self, series: Series, host: Machine) -> Series:
        substrate = str(series.dimensions.get("substrate"))
        ran_by = self._accelerators.get(substrate, self._accelerator) or conditions.NONE
        stated = series.conditions or conditions.derived(
            series, dataclasses.replace(host, accelerator=ran_by)
        )
        with_conditions = dataclasses.replace(series, conditions=stated)
        return kvm_facts.marked(with_conditions, host, self._accelerators)

    def _store(self, record: RunRecord) -> Path:
        """Store a record; where that fails, raise an error that names where it is kept instead."""
        try:
            return write(record, self._results)
        except (DiskFull, PathError, LimitReached) as error:
            target, content = encoded(record, self._results)
            raise keep_elsewhere(target, content, error) from error

    def deliver(
        self,
        benchmark: BenchmarkFixture,
        headline: Series,
        record: Path,
        durations: Sequence[float] | None = None,
    ) -> None:
        """Give pytest-benchmark the samples of one series, and the digest of the whole record.

        A series in another unit than seconds needs `durations` to stand for it.
        """
        self.headline = headline
        benchmark.extra_info["run_id"] = self.run_id
        benchmark.extra_info["record"] = record.name
        benchmark.extra_info["record_sha256"] = digest(record)
        adaptor.deliver(benchmark, headline.samples if durations is None else durations)
