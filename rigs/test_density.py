"""Density: how many idle sandboxes restored from one checkpoint fit on this host.

One test per substrate, sharing and N; each writes its own run record, so that a fleet that fails or
does not fit affects no other. Every sandbox must answer and must have an identity of its own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import NotEnoughMemory
from harness.host.identity import NETWORK, Identity, allocate
from harness.host.ksm import Merging, merging
from harness.host.memory import available_memory
from harness.host.run import Run
from harness.measure import footprint_linux, host_memory, rest_linux
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated
from harness.measure.collector import Collector
from harness.measure.host_memory import HostMemory
from harness.measure.record import NOT_OFFERED, Clock
from harness.measure.rest_linux import Window
from harness.network.cubenet import Cubenet, open_cubenet
from harness.network.policy import Policy
from harness.paths import cache_directory
from harness.procedures import fleet_figures, unrehearsed
from harness.procedures.echo import echo
from harness.procedures.fleet import (
    Bounds,
    BringUp,
    SandboxFleet,
    admit,
    ask_each,
    pids_of,
    run_process,
    touch_above_floor,
)
from harness.procedures.linux_only import require_linux
from harness.procedures.namespace_endpoint import endpoint
from harness.rig.discovery import substrates_of
from harness.rig.info import RigInfo, names, numbers
from harness.rig.recorder import RigRun, given_options
from harness.rig.stages import AT_REST
from harness.rig.tasks import Task
from harness.sandbox.protocol import Role, Sandbox, Sharing, Substrate, Template, Tier, load


def requested(options: Mapping[str, str]) -> tuple[Sequence[int], Sequence[Sharing]]:
    """The sizes and sharings in the options. Raises UsageError when they make no sense."""
    sharings = names(options, "sharing", tuple(Sharing))
    return numbers(options, "n", ()), [Sharing(name) for name in sharings]


TIER = Tier.DURABLE_POOL


def tasks() -> Sequence[Task]:
    """The whole plan, and the largest fleet of each built-in substrate."""
    # Each accelerator has one of the first two.
    fleets = {"qemu": "forked,started,merged", "bhyve": "mapped"}
    return [
        Task("bench:density", "density", "How many sandboxes fit", {"profile": "full"}),
        *(
            Task(
                f"bench:{name}-fanout-1000",
                "density",
                f"A thousand {name} microVMs from one checkpoint, alive",
                {"substrate": name, "profile": "full", "sharing": sharing, "n": "1000"},
            )
            for name, sharing in fleets.items()
        ),
    ]


RIG = RigInfo(
    id="density",
    title="Density: many sandboxes from one checkpoint",
    claims=("coppice-density", "cubesandbox-memory"),
    wants=lambda substrate: TIER in substrate.tiers and bool(substrate.sharings),
    tasks=tasks,
    options={
        "n": "sizes of fleets, such as 8,50",
        "sharing": f"how guests share memory, of {', '.join(Sharing)}",
    },
    check=requested,
    flags={
        "force": "start even if the estimate says that memory will not suffice",
        "network": "attach every sandbox to cubenet, and require each to answer a packet",
    },
    measured_alike=(
        "c2ab9a4d1a38c0c5df5dee06e41f297e65d6eabd403522f94c159c872b75e0a7",
        "40401048c67178daaf24278d6bccbfa45a9d454e6fbad52d4aa2ec9570e9d98a",
        "21982787ca43dd6cab1e5610ca5d7e25384792de92b72eaa126b58884e1747bb",
        "e24d7d21c4b4e0cd4910c7424c03737fe5809ace7ee710d85782ea9d8c7bf669",
        "4e49d5e7527c905e7d623c4906764d745d003bc7fdc8bfe58cb16998314b7798",
        "e5284dbcd3abc48618fb88e46fcf5075d4cf0bba9fe7d5ea37f92e2a7b244700",
        "4e53227d9e88db9222b28d125f84e92d8d2b6866c8f27fcf87cbe6f400045e8f",
        "fe481ce83157d33273b26cebae32e22b4eefc31f10cac3aeefd1ad8dae126bda",
        "b673a303b64a09e768319049af6f1b32ddf33196596687c7ea131c72d0026862",
        "3007f4cc20282c43daf3f011ba472524d6bbb9575d4c548b46fee16d10ce2971",
        "631536cf4196f047a8f0c05f5640ebb8f36cf5aec6cf007a1285b79f4c164543",
        "f67265bafd25d5c36d6b05ba39dfbc13014c4a7d73be3d16079cad85d9c7971f",
    ),
)
TOUCHED_MIB = 16
TOUCHED_IN_QUICK = (Sharing.MAPPED,)
SENDER = Policy.of([str(NETWORK)])
"""The policy of the endpoint that sends to every sandbox; their own policies allow nothing."""
PILOTS = 2
"""Sandboxes whose memory is measured first, to estimate the need of the fleet."""
MARGIN = 1.1
SCANS = 3
"""Full scans of KSM after which merging counts as done: the first records a page's checksum, the
next finds its equal, the third catches what changed in between."""
SCAN_LIMIT_S = 30.0
"""How long the pilots wait for KSM before they are measured."""

# N by profile. Of full private copies only a few fit.
PLANS: dict[str, dict[Sharing, Sequence[int]]] = {
    "smoke": dict.fromkeys(Sharing, (2,)),
    "quick": dict.fromkeys(Sharing, (8,)),
    "full": {
        Sharing.PRIVATE: (8, 50),
        Sharing.MAPPED: (8, 50, 200, 400, 1000),
        Sharing.MERGED: (8, 50, 200, 400, 1000),
        Sharing.FORKED: (8, 50, 200, 400, 1000),
        Sharing.STARTED: (8, 50, 200, 400, 1000),
    },
}


@dataclass(frozen=True)
class Case:
    """One fleet; pytest's `-k` matches its name. `asked` is the largest N that the user requested,
    0 when the sizes come from the profile."""

    substrate: str
    sharing: Sharing
    n: int
    asked: int
    network: bool = False

    def __str__(self) -> str:
        return f"{self.substrate}-{self.sharing}-n{self.n}{'-network' if self.network else ''}"


def cases(profile: str, options: Mapping[str, str], named: Sequence[str] = ()) -> Iterator[Case]:
    """The fleets that the options or else the profile ask for, in increasing size."""
    sizes, sharings = requested(options)
    for substrate in substrates_of(RIG, named):
        for sharing in sharings or substrate.sharings:
            for n in sorted(sizes or PLANS[profile][sharing]):
                # Private copies that do not fit are skipped, unless the user named this sharing.
                insists = sharings or sharing is not Sharing.PRIVATE
                largest = max(sizes, default=0) if insists else 0
                yield Case(substrate.name, sharing, n, largest, "network" in options)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    options = given_options(metafunc.config.getoption("--coppice-set"))
    named = metafunc.config.getoption("--coppice-substrate") or ()
    found = list(cases(metafunc.config.getoption("--coppice-profile"), options, named))
    metafunc.parametrize("case", found, ids=str)


@dataclass(frozen=True)
class Maker:
    """Creates the sandboxes of one case, each with a NIC if the case has a network."""

    case: Case
    substrate: Substrate[Template]
    template: Template
    run: Run
    net: Cubenet | None

    @contextmanager
    def launcher(self) -> Iterator[Callable[[], Sandbox]]:
        """A function that launches a sandbox; for forks, their zygote lives for as long."""
        with ExitStack() as stack:
            template = self.template
            if self.case.sharing in (Sharing.FORKED, Sharing.STARTED):
                tap = self._tap(allocate(self.run.leases, self.run.id))
                template = stack.enter_context(
                    self.substrate.zygote(self.run, template, tap, self.case.sharing)
                )

            def launch() -> Sandbox:
                identity = allocate(self.run.leases, self.run.id)
                return self.substrate.launch(
                    self.run, template, TIER, identity, self.case.sharing, self._tap(identity)
                )

            yield launch

    def _tap(self, identity: Identity) -> int | None:
        return self.net.attach_tap(identity).descriptor if self.net else None


def estimate(launch: Callable[[], Sandbox], merger: Merging | None, known: int) -> int:
    """The memory of one sandbox in bytes, measured on the pilots, each of which has run a process,
    after merging by KSM if the fleet will be merged. It is `known` where sandboxes share a
    process, so that none has memory of its own that could be read."""
    before = host_memory.read()
    with SandboxFleet(launch, 0) as pilots:
        up = pilots.bring_up(PILOTS)
        ask_each(pilots.sandboxes, lambda sandbox: sandbox.first_exec("pilot"))
        if merger:
            scans, deadline = merger.count("full_scans"), time.monotonic() + SCAN_LIMIT_S
            while merger.count("full_scans") < scans + SCANS and time.monotonic() < deadline:
                time.sleep(0.1)
        found = [
            footprint
            for footprint in map(fleet_figures.footprint_of, pilots.sandboxes)
            if footprint
        ]
        if pilots.sandboxes and not footprint_linux.AVAILABLE:
            change = before.to_be_had - host_memory.read().to_be_had
            return round(MARGIN * max(change, 0) / len(pilots.sandboxes))
        if pilots.sandboxes and not pids_of(pilots.sandboxes):
            return known
    if not found:
        why = up.failures[0][1] if up.failures else "its memory cannot be read"
        pytest.fail(f"no pilot sandbox could be measured: {why}", pytrace=False)
    return round(MARGIN * max(footprint.private for footprint in found))


def measure(case: Case, run: Run, rig_run: RigRun, profile: str) -> Collector:
    """Bring one fleet up and measure it; its series, and why it failed if it did."""
    if case.network:
        require_linux()
    substrate = load(case.substrate)
    template = substrate.prepare(run, cache_directory(), TIER)
    rig_run.prepared(template.images, template.accelerator, substrate.tools)
    findings = Collector(
        substrate=case.substrate,
        n=case.n,
        sharing=str(case.sharing),
        accelerator=template.accelerator,
        **({"network": "cubenet"} if case.network else {}),
    )
    with ExitStack() as stack:
        merger = stack.enter_context(merging(run)) if case.sharing is Sharing.MERGED else None
        net = stack.enter_context(open_cubenet(run)) if case.network else None
        maker = Maker(case, substrate, template, run, net)
        with maker.launcher() as launch:
            each = estimate(launch, merger, substrate.memory_per_sandbox(TIER))
        if not rig_run.option("force"):
            _admit(case, each)
        rig_run.begin()
        before = host_memory.read()
        fleet_figures.host_memory_parts(findings, "before", before)
        scanned = rest_linux.scanner_cpu_s() if merger else 0.0
        began = time.perf_counter()
        launch = stack.enter_context(maker.launcher())
        fleet = stack.enter_context(SandboxFleet(launch, each))
        bring_up(findings, fleet.bring_up(case.n, began))
        if fleet.sandboxes:
            touch = profile == "full" or case.sharing in TOUCHED_IN_QUICK
            lacks = substrate.not_offered
            live(findings, fleet.sandboxes, before, merger, scanned, touch, rig_run.announce, lacks)
            if net:
                packets(findings, fleet.sandboxes, run, net)
            if profile == "full" and "first-exec" not in lacks:
                fleet_figures.wakes(findings, fleet.sandboxes[0])
            # Last: no figure of memory includes what these programs touch.
            if substrate.role is not Role.CONTROL and "first-exec" not in lacks:
                chance = random.Random(rig_run.run_id)  # which is in the record
                fleet_figures.programs(findings, fleet.sandboxes, run.directory, chance)
        rig_run.end()
    return findings


def packets(findings: Collector, sandboxes: Sequence[Sandbox], run: Run, net: Cubenet) -> None:
    """A round trip to every sandbox, from an endpoint on the same network."""
    with endpoint(run, net, SENDER) as sender, echo(sender.namespace) as sending:
        found = ask_each(sandboxes, lambda sandbox: sending.ask(sandbox.identity.address))
        fleet_figures.answers(findings, "packet", found, len(sandboxes))


def _admit(case: Case, each: int) -> None:
    """Check memory: raise NotEnoughMemory for a requested fleet, skip one that is planned."""
    try:
        admit(max(case.n, case.asked), each, available_memory(), Bounds())
    except NotEnoughMemory as refusal:
        if case.asked:
            raise
        pytest.skip(f"not measured on this host: {refusal.args[0]}")


def bring_up(findings: Collector, up: BringUp) -> None:
    """How long each sandbox took, and when each was up."""
    findings.add("bring-up", "s", up.took, up.failures)
    findings.add("bring-up-at", "s", up.up_at)
    findings.add("bring-up-waited", "s", [up.waited_s])
    failed = [reason for _, reason in up.failures if reason != up.stopped]
    if failed:
        findings.broken.append(
            f"{len(failed)} sandboxes did not start; the first failure: {failed[0]}"
        )


def live(
    findings: Collector,
    sandboxes: Sequence[Sandbox],
    before: HostMemory,
    merger: Merging | None,
    scanned: float,
    touch: bool,
    announce: Callable[[str], object],
    lacks: Mapping[str, str],
) -> None:
    """Measure a fleet at rest, then its replies, then its memory after work.

    `scanned` is the CPU time that the kernel's scanner had used before the fleet, in seconds.
    """
    window = rest(findings, sandboxes, before, merger, "idle")
    announce(AT_REST)
    if merger:
        findings.add("merging-cpu", "s", [rest_linux.scanner_cpu_s() - scanned])
        merger.scan_slowly()
        window = rest_linux.watch(pids_of(sandboxes))
        findings.add("scanner-cpu", "1", [window.scanner_cpu_s / window.seconds])
    findings.add("idle-cpu", "1", [window.fleet.cpu_s / window.seconds])
    findings.add("idle-switches", "1/s", [window.fleet.switches / window.seconds])
    fleet_figures.memory_figures(findings, "idle", before, sandboxes)
    if merger:
        fleet_figures.merged_pages(findings, merger)
    count = len(sandboxes)
    fleet_figures.answers(
        findings, "reply", ask_each(sandboxes, lambda sandbox: sandbox.agent.ping()), count
    )
    if why := lacks.get("first-exec"):
        findings.fail("first-exec", "s", why, "lower", NOT_OFFERED)
    else:
        fleet_figures.answers(findings, "first-exec", ask_each(sandboxes, run_process), count)
    fleet_figures.distinct(findings, sandboxes)
    if touch:
        work(findings, sandboxes, before, merger)


def work(
    findings: Collector, sandboxes: Sequence[Sandbox], before: HostMemory, merger: Merging | None
) -> None:
    """Let every guest write to its memory, then measure the same figures again."""
    touched = ask_each(sandboxes, lambda sandbox: touch_above_floor(sandbox, TOUCHED_MIB))
    refused = [why for _, why in touched.failures if why.startswith(NotEnoughMemory.__name__)]
    if refused:
        # The guests did not fail: this host has too little memory for the writes.
        findings.add("touch", "s", touched.seconds, touched.failures, mib=TOUCHED_MIB)
        return
    fleet_figures.answers(findings, "touch", touched, len(sandboxes), mib=TOUCHED_MIB)
    done = f"touched-{TOUCHED_MIB}-MiB"
    rest(findings, sandboxes, before, merger, done)
    fleet_figures.memory_figures(findings, done, before, sandboxes)


def rest(
    findings: Collector,
    sandboxes: Sequence[Sandbox],
    before: HostMemory,
    merger: Merging | None,
    work: str,
) -> Window:
    """Wait until the host is at rest; the last observation window."""
    scans = merger.count("full_scans") if merger else 0

    def scanned() -> bool:
        return merger is None or merger.count("full_scans") >= scans + SCANS

    if merger:
        merger.scan_fast()
    pids = pids_of(sandboxes)
    found = rest_linux.settle(before, lambda: rest_linux.watch(pids), scanned)
    failures = [] if found.reached else [(0, "not at rest within the limit")]
    findings.add("settling", "s", [found.seconds] if found.reached else [], failures, work=work)
    moved = [window.moved for window in found.windows]
    findings.add("window-moved", "bytes", moved, work=work)
    return found.windows[-1]


def clock() -> Clock:
    """Where each duration of this rig ends; its other series are amounts, not durations."""
    return calibrated(
        "density",
        "the caller's request",
        {
            "bring-up": "the sandbox has answered a random nonce and adopted its identity",
            "bring-up-at": "the same, from the request for the fleet, including its zygote",
            "reply": "the guest has computed the answer to a random nonce",
            "first-exec": "a process started inside the guest has returned its output",
            unrehearsed.METRIC: unrehearsed.STOP,
            "packet": "a packet to the guest has come back, including address resolution",
            "touch": f"the guest has written {TOUCHED_MIB} MiB",
            "settling": "the host's available memory moved less than the bound in one window",
        },
    )


@pytest.mark.benchmark(timer=STOPWATCH)
@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")
def test_density(
    case: Case, benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str
) -> None:
    findings = measure(case, run, rig_run, profile)
    # The many parts of the host's total come last.
    series = sorted(findings.series, key=lambda found: found.metric == "host-memory")
    repeat = {"substrate": case.substrate, "sharing": str(case.sharing), "n": str(case.n)}
    record = rig_run.write(RIG, Path(__file__), series, clock(), repeat, broken=findings.broken)
    replies = next((found for found in series if found.metric == "reply"), None)
    assert replies and replies.samples, (
        f"no sandbox of the fleet answered: {findings.broken or 'none started'}"
    )
    rig_run.deliver(benchmark, replies, record)
