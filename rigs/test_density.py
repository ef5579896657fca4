"""Density: how many sandboxes from one checkpoint fit on this host, alive, distinct and idle.

One test per substrate, sharing and N; each writes one run record, so that a fleet that fails or
does not fit takes nothing else with it. It measures and never judges.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import CoppiceError, NotEnoughMemory, UsageError, WrongAnswer
from harness.guest.wakes import trace
from harness.host.memory import available_memory
from harness.host.merging import Merging, merging
from harness.host.run import Run, cache_folder
from harness.measure import footprint_linux, memory_linux, rest_linux
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated
from harness.measure.findings import Findings
from harness.measure.footprint_linux import Footprint
from harness.measure.memory_linux import HostMemory
from harness.measure.record import Clock, Scalar
from harness.measure.rest_linux import Window
from harness.rig import RigInfo
from harness.rig_run import RigRun, given_options
from harness.sandbox.fleet import Answers, Bounds, BringUp, Fleet, admit, ask_each, reason
from harness.sandbox.identity import allocate
from harness.sandbox.protocol import Sandbox, Sharing, Tier, load, registered


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


RIG = RigInfo(
    id="density",
    title="Density: many sandboxes from one checkpoint",
    claims=("coppice-density", "cubesandbox-memory"),
    substrates=("qemu", "bhyve"),
    options={
        "n": "how many sandboxes, such as 8,50",
        "sharing": "of guest memory: private, mapped, merged, or several",
    },
    check=asked,
    flags={"force": "begin although the estimate says that memory does not suffice"},
)
TIER = Tier.DURABLE_POOL
TOUCHED_MIB = 16
TRACED_S = 20.0
TOUCHED_IN_QUICK = (Sharing.MAPPED,)
PILOTS = 2
"""Sandboxes whose memory is measured first, to know what the rest will need."""
MARGIN = 1.1
SCANS = 3
"""Rounds of the scanner before merging counts as done: one to know a page, one to find its equal,
and one for what changed in between."""
SCAN_LIMIT_S = 30.0
"""How long two sandboxes get to be merged before they are measured."""
READINGS = 11
"""Of the host's memory once it is at rest; one every tenth of a second."""

# N by profile. Full private copies fit only a few times.
PLANS: dict[str, dict[Sharing, Sequence[int]]] = {
    "quick": dict.fromkeys(Sharing, (8,)),
    "full": {
        Sharing.PRIVATE: (8, 50),
        Sharing.MAPPED: (8, 50, 200, 400, 1000),
        Sharing.MERGED: (8, 50, 200, 400, 1000),
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

    def __str__(self) -> str:
        return f"{self.substrate}-{self.sharing}-n{self.n}"


def cases(profile: str, options: Mapping[str, str]) -> Iterator[Case]:
    """What the options ask for, else what the profile plans; small fleets first."""
    sizes, sharings = asked(options)
    for substrate in sorted(set(RIG.substrates) & set(registered())):
        for sharing in sharings or load(substrate).sharings:
            for n in sorted(sizes or PLANS[profile][sharing]):
                # Full copies are left out where they do not fit, unless asked for by name.
                insists = sharings or sharing is not Sharing.PRIVATE
                yield Case(substrate, sharing, n, max(sizes, default=0) if insists else 0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    options = given_options(metafunc.config.getoption("--set"))
    found = list(cases(metafunc.config.getoption("--profile"), options))
    metafunc.parametrize("case", found, ids=str)


def answers(findings: Findings, metric: str, found: Answers, of: int, **dimensions: Scalar) -> None:
    """Latencies of what every sandbox was asked; one that failed makes the record a failure."""
    findings.add(metric, "s", found.seconds, found.failures, **dimensions)
    if found.failures:
        findings.broken.append(
            f"{metric}: {len(found.failures)} of {of} failed, first sandbox "
            f"{found.failures[0][0]} with {found.failures[0][1]}"
        )


def host_memory(findings: Findings, when: str, memory: HostMemory) -> None:
    for part, value in memory.parts():
        findings.add("host-memory", "bytes", [value], part=part, when=when)


def memory_figures(
    findings: Findings, work: str, before: HostMemory, sandboxes: Sequence[Sandbox]
) -> None:
    """The three definitions: the host's whole change, VMM only, private and dirty."""
    readings = []
    for _ in range(READINGS):
        readings.append(memory_linux.read())
        time.sleep(0.1)
    for counted in ("to_be_had", "free_and_caches"):
        change = [getattr(before, counted) - getattr(one, counted) for one in readings]
        name = counted.replace("_", "-")
        findings.add("host-change", "bytes", change, counted=name, work=work)
    host_memory(findings, work, readings[-1])
    found, gone = [], []
    for number, sandbox in enumerate(sandboxes):
        footprint = footprint_of(sandbox)
        if footprint:
            found.append(footprint)
        else:
            gone.append((number, "its VMM is gone"))
    if gone:
        findings.broken.append(f"{len(gone)} of {len(sandboxes)} VMMs are gone")
    both = [(one.vmm, one.guest) for one in found]
    findings.add("vmm-pss", "bytes", [vmm.pss for vmm, _ in both], gone, work=work)
    findings.add("guest-pss", "bytes", [guest.pss for _, guest in both], gone, work=work)
    dirty = [vmm.private_dirty + guest.private_dirty for vmm, guest in both]
    findings.add("private-dirty", "bytes", dirty, gone, work=work)
    for part in footprint_linux.PARTS:
        sizes = [one.part(part) for one in found]
        findings.add("footprint", "bytes", sizes, gone, part=part, work=work)


def footprint_of(sandbox: Sandbox) -> Footprint | None:
    process = sandbox.process
    return footprint_linux.read(process.pid, process.guest_memory) if process else None


def estimate(launch: Callable[[], Sandbox], merger: Merging | None) -> int:
    """Bytes that one sandbox takes which answers and has run a process, as measured on two; merged
    with each other first, where the fleet will be."""
    with Fleet(launch, 0) as pilots:
        up = pilots.bring_up(PILOTS)
        ask_each(pilots.sandboxes, lambda sandbox: sandbox.first_exec("pilot"))
        if merger:
            scans, deadline = merger.count("full_scans"), time.monotonic() + SCAN_LIMIT_S
            while merger.count("full_scans") < scans + SCANS and time.monotonic() < deadline:
                time.sleep(0.1)
        found = [one for one in map(footprint_of, pilots.sandboxes) if one]
    if not found:
        why = up.failures[0][1] if up.failures else "its memory cannot be read"
        pytest.fail(f"no sandbox could be measured before the fleet: {why}", pytrace=False)
    return round(MARGIN * max(one.own for one in found))


def measure(case: Case, run: Run, rig_run: RigRun, profile: str) -> Findings:
    """One fleet's whole life; its series, and what made it fail."""
    substrate = load(case.substrate)
    template = substrate.prepare(run, cache_folder(), TIER)
    rig_run.prepared(template.images, template.accelerator, substrate.tools)
    findings = Findings(
        substrate=case.substrate,
        n=case.n,
        sharing=str(case.sharing),
        accelerator=template.accelerator,
    )
    with ExitStack() as stack:
        merger = None
        if case.sharing is Sharing.MERGED:
            merger = stack.enter_context(merging(run))

        def launch() -> Sandbox:
            identity = allocate(run.leases, run.id)
            return substrate.launch(run, template, TIER, identity, case.sharing)

        each = estimate(launch, merger)
        if not rig_run.option("force"):
            _admit(case, each)
        rig_run.begin()
        before = memory_linux.read()
        host_memory(findings, "before", before)
        fleet = stack.enter_context(Fleet(launch, each))
        bring_up(findings, fleet.bring_up(case.n))
        if fleet.sandboxes:
            touch = profile == "full" or case.sharing in TOUCHED_IN_QUICK
            live(findings, fleet.sandboxes, before, merger, touch)
            if profile == "full":
                wakes(findings, fleet.sandboxes[0])
        rig_run.end()
    # The parts of the host's total are many: they come last.
    findings.series.sort(key=lambda one: one.metric == "host-memory")
    return findings


def _admit(case: Case, each: int) -> None:
    """Refuse what was asked for and does not fit; of what a profile plans, say that it does not."""
    try:
        admit(max(case.n, case.asked), each, available_memory(), Bounds())
    except NotEnoughMemory as refusal:
        if case.asked:
            raise
        pytest.skip(f"not measured on this host: {refusal.args[0]}")


def bring_up(findings: Findings, up: BringUp) -> None:
    """How long each took, and the curve: when each was up."""
    findings.add("bring-up", "s", up.took, up.failures)
    findings.add("bring-up-at", "s", up.up_at)
    findings.add("bring-up-waited", "s", [up.waited_s])
    failed = [why for _, why in up.failures if why != up.stopped]
    if failed:
        findings.broken.append(f"{len(failed)} sandboxes did not come up, first with {failed[0]}")


def live(
    findings: Findings,
    sandboxes: Sequence[Sandbox],
    before: HostMemory,
    merger: Merging | None,
    touch: bool,
) -> None:
    """A fleet at rest, asked, and at work."""
    window = rest(findings, sandboxes, before, merger, "idle")
    if merger:
        merger.ease()
        window = rest_linux.watch(pids_of(sandboxes))
        findings.add("scanner-cpu", "1", [window.scanner_cpu_s / window.seconds])
    findings.add("idle-cpu", "1", [window.fleet.cpu_s / window.seconds])
    findings.add("idle-switches", "1/s", [window.fleet.switches / window.seconds])
    memory_figures(findings, "idle", before, sandboxes)
    if merger:
        merged_pages(findings, merger)
    count = len(sandboxes)
    answers(findings, "reply", ask_each(sandboxes, lambda one: one.agent.ping()), count)
    answers(findings, "first-exec", ask_each(sandboxes, _run_a_process), count)
    distinct(findings, sandboxes)
    if touch:
        work(findings, sandboxes, before, merger)


def work(
    findings: Findings, sandboxes: Sequence[Sandbox], before: HostMemory, merger: Merging | None
) -> None:
    """The cost of work: every guest writes to its memory, then the same figures again."""
    touched = ask_each(sandboxes, _touch)
    refused = [one for one in touched.failures if one[1].startswith(NotEnoughMemory.__name__)]
    if refused:
        # Nothing is wrong with the guests: this host has no room for their work.
        findings.add("touch", "s", touched.seconds, touched.failures, mib=TOUCHED_MIB)
        return
    answers(findings, "touch", touched, len(sandboxes), mib=TOUCHED_MIB)
    done = f"touched-{TOUCHED_MIB}-MiB"
    rest(findings, sandboxes, before, merger, done)
    memory_figures(findings, done, before, sandboxes)


def pids_of(sandboxes: Sequence[Sandbox]) -> Sequence[int]:
    return [one.process.pid for one in sandboxes if one.process]


def rest(
    findings: Findings,
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
        merger.hurry()
    pids = pids_of(sandboxes)
    found = rest_linux.settle(before, lambda: rest_linux.watch(pids), scanned)
    failures = [] if found.reached else [(0, "not at rest within the limit")]
    findings.add("settling", "s", [found.seconds] if found.reached else [], failures, work=work)
    moved = [window.moved for window in found.windows]
    findings.add("window-moved", "bytes", moved, work=work)
    return found.windows[-1]


def merged_pages(findings: Findings, merger: Merging) -> None:
    for state in ("shared", "sharing", "unshared", "volatile"):
        pages = merger.count(f"pages_{state}")
        findings.add("merged-pages", "bytes", [pages * memory_linux.PAGE], state=state)


def _run_a_process(sandbox: Sandbox) -> None:
    done = sandbox.first_exec(sandbox.id)
    if done.stdout.decode().strip() != sandbox.id:
        raise WrongAnswer(f"{sandbox.id}: its process returned something else than it was given")


def _touch(sandbox: Sandbox) -> None:
    if available_memory() - (TOUCHED_MIB << 20) < Bounds().floor:
        raise NotEnoughMemory(f"no room for {TOUCHED_MIB} MiB more above the floor")
    sandbox.touch(TOUCHED_MIB)


def distinct(findings: Findings, sandboxes: Sequence[Sandbox]) -> None:
    """How many different values the guests give of what no two may share, by their own word."""
    said: list[dict[str, str]] = []
    asked = ask_each(sandboxes, lambda one: said.append(one.agent.hello()))
    for what in ("hostname", "machine_id", "mac", "address", "random"):
        different = len({one[what] for one in said})
        findings.add("distinct", "1", [different], asked.failures, what=what)
        if different < len(said):
            findings.broken.append(f"{len(said)} guests have {different} of {what} between them")


def wakes(findings: Findings, sandbox: Sandbox) -> None:
    """What wakes one idle guest, by the function of its kernel."""
    try:
        found = trace(sandbox.agent, TRACED_S)
    except CoppiceError as error:
        findings.add("wakes", "1/s", [], [(0, reason(error))])
        return
    for function, often in found.items():
        findings.add("wakes", "1/s", [often], function=function)


def clock() -> Clock:
    """What the durations of this rig's series end with; all others are amounts."""
    return calibrated(
        "density",
        "the caller's request",
        {
            "bring-up": "the sandbox has answered a random nonce and has taken its identity",
            "bring-up-at": "the same, counted from the first request of the fleet",
            "reply": "the guest has computed the answer to a random nonce",
            "first-exec": "a process started inside the guest has returned its output",
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
    options = f"--substrate {case.substrate} --sharing {case.sharing} --n {case.n}"
    record = rig_run.write(
        RIG,
        Path(__file__),
        findings.series,
        clock(),
        task=f"mise run bench:density -- {options} --profile {profile}",
        broken=findings.broken,
    )
    replies = next((one.samples for one in findings.series if one.metric == "reply"), ())
    assert replies, f"no sandbox of the fleet answered: {findings.broken or 'none came up'}"
    rig_run.deliver(benchmark, replies, record)
