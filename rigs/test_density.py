"""Density: how many sandboxes from one checkpoint fit on this host, alive, distinct and idle.

One test per substrate, sharing and N; each writes one run record, so that a fleet that fails or
does not fit takes nothing else with it. It measures and never judges.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import NotEnoughMemory, UsageError, WrongAnswer
from harness.host.identity import NETWORK, Identity, allocate
from harness.host.ksm import Merging, merging
from harness.host.memory import available_memory
from harness.host.run import Run
from harness.measure import footprint_linux, host_memory, rest_linux
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated
from harness.measure.collector import Collector
from harness.measure.host_memory import HostMemory
from harness.measure.record import Clock
from harness.measure.rest_linux import Window
from harness.network.cubenet import Cubenet, open_cubenet
from harness.network.policy import Policy
from harness.paths import cache_directory
from harness.procedures import fleet_figures
from harness.procedures.echo import echo
from harness.procedures.fleet import Bounds, BringUp, SandboxFleet, admit, ask_each
from harness.procedures.linux_only import require_linux
from harness.procedures.namespace_endpoint import endpoint
from harness.rig.discovery import substrates_of
from harness.rig.info import RigInfo
from harness.rig.recorder import RigRun, given_options
from harness.rig.stages import AT_REST
from harness.rig.tasks import Task
from harness.sandbox.protocol import Sandbox, Sharing, Substrate, Template, Tier, load


def asked(options: Mapping[str, str]) -> tuple[Sequence[int], Sequence[Sharing]]:
    """The sizes and the sharings that a caller named; UsageError when they make no sense."""
    try:
        sizes = [int(one) for one in options.get("n", "").split(",") if one]
        sharings = [Sharing(one) for one in options.get("sharing", "").split(",") if one]
    except ValueError as error:
        raise UsageError(f"--n or --sharing cannot be read: {error}") from error
    if any(n < 1 for n in sizes):
        raise UsageError("a fleet has at least one sandbox")
    return sizes, sharings


TIER = Tier.DURABLE_POOL


def tasks() -> Sequence[Task]:
    """The whole plan, and the largest fleet of each substrate of ours."""
    fleets = {"qemu": "forked,merged", "bhyve": "mapped"}
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
        "n": "how many sandboxes, such as 8,50",
        "sharing": "of guest memory: private, mapped, merged, forked, or several",
    },
    check=asked,
    flags={
        "force": "begin although the estimate says that memory does not suffice",
        "network": "attach every sandbox to a network of ours, and have each answer a packet",
    },
    measured_alike=(
        "e5284dbcd3abc48618fb88e46fcf5075d4cf0bba9fe7d5ea37f92e2a7b244700",
        "4e53227d9e88db9222b28d125f84e92d8d2b6866c8f27fcf87cbe6f400045e8f",
        "fe481ce83157d33273b26cebae32e22b4eefc31f10cac3aeefd1ad8dae126bda",
        "b673a303b64a09e768319049af6f1b32ddf33196596687c7ea131c72d0026862",
        "3007f4cc20282c43daf3f011ba472524d6bbb9575d4c548b46fee16d10ce2971",
    ),
)
TOUCHED_MIB = 16

TOUCHED_IN_QUICK = (Sharing.MAPPED,)
ASKERS = Policy.of([str(NETWORK)])
"""What lets somebody ask every sandbox of the network, whose own policies allow nothing."""
PILOTS = 2
"""Sandboxes whose memory is measured first, to know what the rest will need."""
MARGIN = 1.1
SCANS = 3
"""Rounds of the scanner before merging counts as done: one to know a page, one to find its equal,
and one for what changed in between."""
SCAN_LIMIT_S = 30.0
"""How long two sandboxes get to be merged before they are measured."""


# N by profile. Full private copies fit only a few times.
PLANS: dict[str, dict[Sharing, Sequence[int]]] = {
    "smoke": dict.fromkeys(Sharing, (2,)),
    "quick": dict.fromkeys(Sharing, (8,)),
    "full": {
        Sharing.PRIVATE: (8, 50),
        Sharing.MAPPED: (8, 50, 200, 400, 1000),
        Sharing.MERGED: (8, 50, 200, 400, 1000),
        Sharing.FORKED: (8, 50, 200, 400, 1000),
    },
}


@dataclass(frozen=True)
class Case:
    """One fleet; its name is what `-k` finds. `asked` is the largest N that the caller named, 0
    when the profile plans it."""

    substrate: str
    sharing: Sharing
    n: int
    asked: int
    network: bool = False

    def __str__(self) -> str:
        return f"{self.substrate}-{self.sharing}-n{self.n}{'-network' if self.network else ''}"


def cases(profile: str, options: Mapping[str, str], named: Sequence[str] = ()) -> Iterator[Case]:
    """What the options ask for, else what the profile plans; small fleets first."""
    sizes, sharings = asked(options)
    for substrate in substrates_of(RIG, named):
        for sharing in sharings or substrate.sharings:
            for n in sorted(sizes or PLANS[profile][sharing]):
                # Full copies are left out where they do not fit, unless asked for by name.
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
    """Makes the sandboxes of one case, each with its card on the network where there is one."""

    case: Case
    substrate: Substrate[Template]
    template: Template
    run: Run
    net: Cubenet | None

    @contextmanager
    def standing(self) -> Iterator[Callable[[], Sandbox]]:
        """What launches one; forks have their zygote meanwhile."""
        with ExitStack() as stack:
            template = self.template
            if self.case.sharing is Sharing.FORKED:
                tap = self._tap(allocate(self.run.leases, self.run.id))
                template = stack.enter_context(self.substrate.zygote(self.run, template, tap))

            def launch() -> Sandbox:
                identity = allocate(self.run.leases, self.run.id)
                return self.substrate.launch(
                    self.run, template, TIER, identity, self.case.sharing, self._tap(identity)
                )

            yield launch

    def _tap(self, identity: Identity) -> int | None:
        return self.net.attach_tap(identity).descriptor if self.net else None


def estimate(launch: Callable[[], Sandbox], merger: Merging | None) -> int:
    """Bytes that one sandbox takes which answers and has run a process, as measured on two; merged
    with each other first, where the fleet will be."""
    before = host_memory.read()
    with SandboxFleet(launch, 0) as pilots:
        up = pilots.bring_up(PILOTS)
        ask_each(pilots.sandboxes, lambda sandbox: sandbox.first_exec("pilot"))
        if merger:
            scans, deadline = merger.count("full_scans"), time.monotonic() + SCAN_LIMIT_S
            while merger.count("full_scans") < scans + SCANS and time.monotonic() < deadline:
                time.sleep(0.1)
        found = [one for one in map(fleet_figures.footprint_of, pilots.sandboxes) if one]
        if pilots.sandboxes and not footprint_linux.AVAILABLE:
            taken = before.to_be_had - host_memory.read().to_be_had
            return round(MARGIN * max(taken, 0) / len(pilots.sandboxes))
    if not found:
        why = up.failures[0][1] if up.failures else "its memory cannot be read"
        pytest.fail(f"no sandbox could be measured before the fleet: {why}", pytrace=False)
    return round(MARGIN * max(one.private for one in found))


def measure(case: Case, run: Run, rig_run: RigRun, profile: str) -> Collector:
    """One fleet's whole life; its series, and what made it fail."""
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
        with maker.standing() as launch:
            each = estimate(launch, merger)
        if not rig_run.option("force"):
            _admit(case, each)
        rig_run.begin()
        before = host_memory.read()
        fleet_figures.host_memory_parts(findings, "before", before)
        began = time.perf_counter()
        launch = stack.enter_context(maker.standing())
        fleet = stack.enter_context(SandboxFleet(launch, each))
        bring_up(findings, fleet.bring_up(case.n, began))
        if fleet.sandboxes:
            touch = profile == "full" or case.sharing in TOUCHED_IN_QUICK
            live(findings, fleet.sandboxes, before, merger, touch, rig_run.reached)
            if net:
                packets(findings, fleet.sandboxes, run, net)
            if profile == "full":
                fleet_figures.wakes(findings, fleet.sandboxes[0])
        rig_run.end()
    return findings


def packets(findings: Collector, sandboxes: Sequence[Sandbox], run: Run, net: Cubenet) -> None:
    """A packet to every sandbox and back, from a neighbour that may ask all of them."""
    with endpoint(run, net, ASKERS) as asker, echo(asker.namespace) as asking:
        found = ask_each(sandboxes, lambda one: asking.ask(one.identity.address))
        fleet_figures.answers(findings, "packet", found, len(sandboxes))


def _admit(case: Case, each: int) -> None:
    """Refuse what was asked for and does not fit; of what a profile plans, say that it does not."""
    try:
        admit(max(case.n, case.asked), each, available_memory(), Bounds())
    except NotEnoughMemory as refusal:
        if case.asked:
            raise
        pytest.skip(f"not measured on this host: {refusal.args[0]}")


def bring_up(findings: Collector, up: BringUp) -> None:
    """How long each took, and the curve: when each was up."""
    findings.add("bring-up", "s", up.took, up.failures)
    findings.add("bring-up-at", "s", up.up_at)
    findings.add("bring-up-waited", "s", [up.waited_s])
    failed = [why for _, why in up.failures if why != up.stopped]
    if failed:
        findings.broken.append(f"{len(failed)} sandboxes did not come up, first with {failed[0]}")


def live(
    findings: Collector,
    sandboxes: Sequence[Sandbox],
    before: HostMemory,
    merger: Merging | None,
    touch: bool,
    reached: Callable[[str], object],
) -> None:
    """A fleet at rest, asked, and at work."""
    window = rest(findings, sandboxes, before, merger, "idle")
    reached(AT_REST)
    if merger:
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
        findings, "reply", ask_each(sandboxes, lambda one: one.agent.ping()), count
    )
    fleet_figures.answers(findings, "first-exec", ask_each(sandboxes, _run_a_process), count)
    fleet_figures.distinct(findings, sandboxes)
    if touch:
        work(findings, sandboxes, before, merger)


def work(
    findings: Collector, sandboxes: Sequence[Sandbox], before: HostMemory, merger: Merging | None
) -> None:
    """The cost of work: every guest writes to its memory, then the same figures again."""
    touched = ask_each(sandboxes, _touch)
    refused = [one for one in touched.failures if one[1].startswith(NotEnoughMemory.__name__)]
    if refused:
        # Nothing is wrong with the guests: this host has no room for their work.
        findings.add("touch", "s", touched.seconds, touched.failures, mib=TOUCHED_MIB)
        return
    fleet_figures.answers(findings, "touch", touched, len(sandboxes), mib=TOUCHED_MIB)
    done = f"touched-{TOUCHED_MIB}-MiB"
    rest(findings, sandboxes, before, merger, done)
    fleet_figures.memory_figures(findings, done, before, sandboxes)


def pids_of(sandboxes: Sequence[Sandbox]) -> Sequence[int]:
    return [one.process.pid for one in sandboxes if one.process]


def rest(
    findings: Collector,
    sandboxes: Sequence[Sandbox],
    before: HostMemory,
    merger: Merging | None,
    work: str,
) -> Window:
    """Wait until the host is at rest; the last window."""
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


def _run_a_process(sandbox: Sandbox) -> None:
    done = sandbox.first_exec(sandbox.id)
    if done.stdout.decode().strip() != sandbox.id:
        raise WrongAnswer(f"{sandbox.id}: its process returned something else than it was given")


def _touch(sandbox: Sandbox) -> None:
    if available_memory() - (TOUCHED_MIB << 20) < Bounds().floor:
        raise NotEnoughMemory(f"no room for {TOUCHED_MIB} MiB more above the floor")
    sandbox.touch(TOUCHED_MIB)


def clock() -> Clock:
    """What the durations of this rig's series end with; all others are amounts."""
    return calibrated(
        "density",
        "the caller's request",
        {
            "bring-up": "the sandbox has answered a random nonce and has taken its identity",
            "bring-up-at": "the same, counted from the request for the fleet, its zygote included",
            "reply": "the guest has computed the answer to a random nonce",
            "first-exec": "a process started inside the guest has returned its output",
            "packet": "a packet to the guest has come back, asking for its card included",
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
    # The parts of the host's total are many: they come last.
    series = sorted(findings.series, key=lambda one: one.metric == "host-memory")
    repeat = {"substrate": case.substrate, "sharing": str(case.sharing), "n": str(case.n)}
    record = rig_run.write(RIG, Path(__file__), series, clock(), repeat, broken=findings.broken)
    replies = next((one for one in series if one.metric == "reply"), None)
    assert replies and replies.samples, (
        f"no sandbox of the fleet answered: {findings.broken or 'none came up'}"
    )
    rig_run.deliver(benchmark, replies, record)
