"""A fleet's figures: its memory by three definitions, its answers, its guests' identities."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

from harness.errors import CoppiceError
from harness.guest.wakeups import can_trace, trace
from harness.host.ksm import Merging
from harness.measure import footprint_linux, host_memory, kernel_memory_linux, memory_linux
from harness.measure.collector import Collector
from harness.measure.footprint_linux import Footprint
from harness.measure.host_memory import HostMemory
from harness.measure.record import NOT_OFFERED, Facts, Scalar
from harness.procedures import unrehearsed
from harness.procedures.fleet import Answers, ask_each, reason
from harness.sandbox.protocol import Sandbox

READINGS = 11
"""Readings of the host's memory when the fleet is idle, one every tenth of a second."""
TRACED_S = 20.0
PROGRAM_LIMIT_S = 60.0


def answers(
    findings: Collector, metric: str, found: Answers, of: int, **dimensions: Scalar
) -> None:
    """Add the latencies of a request to every sandbox; any failure makes the record a failure."""
    findings.add(metric, "s", found.seconds, found.failures, **dimensions)
    if found.failures:
        findings.broken.append(
            f"{metric}: {len(found.failures)} of {of} failed, first sandbox "
            f"{found.failures[0][0]} with {found.failures[0][1]}"
        )


def host_memory_parts(findings: Collector, when: str, memory: HostMemory) -> None:
    for part, value in memory.parts():
        findings.add("host-memory", "bytes", [value], part=part, when=when)


def memory_figures(
    findings: Collector, work: str, before: HostMemory, sandboxes: Sequence[Sandbox]
) -> None:
    """Add memory by three definitions: change of the host's memory, VMM only, private dirty."""
    readings = []
    for _ in range(READINGS):
        readings.append(host_memory.read())
        time.sleep(0.1)
    for counted in ("to_be_had", "free_and_caches"):
        change = [getattr(before, counted) - getattr(reading, counted) for reading in readings]
        name = counted.replace("_", "-")
        findings.add("host-change", "bytes", change, counted=name, work=work)
    host_memory_parts(findings, work, readings[-1])
    if not footprint_linux.AVAILABLE:
        return  # this system does not report proportional set sizes
    found, gone = [], []
    for number, sandbox in enumerate(sandboxes):
        if sandbox.process is None:
            continue  # it shares one with others, which the host's change counts
        footprint = footprint_of(sandbox)
        if footprint:
            found.append(footprint)
        else:
            gone.append((number, "its VMM is gone"))
    if gone:
        findings.broken.append(f"{len(gone)} of {len(sandboxes)} VMMs are gone")
    both = [(footprint.vmm, footprint.guest) for footprint in found]
    findings.add("vmm-pss", "bytes", [vmm.pss for vmm, _ in both], gone, work=work)
    findings.add("guest-pss", "bytes", [guest.pss for _, guest in both], gone, work=work)
    dirty = [vmm.private_dirty + guest.private_dirty for vmm, guest in both]
    findings.add("private-dirty", "bytes", dirty, gone, work=work)
    for part in footprint_linux.PARTS:
        sizes = [footprint.part(part) for footprint in found]
        findings.add("footprint", "bytes", sizes, gone, part=part, work=work)
        own = [footprint.private_part(part) for footprint in found]
        findings.add("private", "bytes", own, gone, part=part, work=work)
    _kernel_memory(findings, work, sandboxes)


def _kernel_memory(findings: Collector, work: str, sandboxes: Sequence[Sandbox]) -> None:
    """Add what each VMM's control group is charged for kernel memory, where they have groups."""
    read = [kernel_memory_linux.read(each.process.pid) for each in sandboxes if each.process]
    if read and all(read):
        for part in read[0]:
            sizes = [found[part] for found in read if part in found]
            findings.add("kernel-memory", "bytes", sizes, part=part, work=work)


def footprint_of(sandbox: Sandbox) -> Footprint | None:
    process = sandbox.process
    return footprint_linux.read(process.pid, process.guest_memory) if process else None


def programs(
    findings: Collector, sandboxes: Sequence[Sandbox], directory: Path, chance: random.Random
) -> None:
    """Let each sandbox run a program that no rehearsal has run."""
    several = unrehearsed.programs(directory)
    found = unrehearsed.run_in_each(sandboxes, several, chance, PROGRAM_LIMIT_S)
    for program, timed in found.items():
        by: Facts = {"program": program, "rehearsed": "no"}
        answers(findings, unrehearsed.METRIC, timed, len(sandboxes), **by)


def merged_pages(findings: Collector, merger: Merging) -> None:
    for state in ("shared", "sharing", "unshared", "volatile"):
        pages = merger.count(f"pages_{state}")
        findings.add("merged-pages", "bytes", [pages * memory_linux.PAGE], state=state)


def distinct(findings: Collector, sandboxes: Sequence[Sandbox]) -> None:
    """Add the number of distinct values that guests report of what must differ between them."""
    hellos: list[dict[str, str]] = []
    asked = ask_each(sandboxes, lambda sandbox: hellos.append(sandbox.agent.hello()))
    for what in ("hostname", "machine_id", "mac", "address", "random"):
        different = len({hello[what] for hello in hellos})
        findings.add("distinct", "1", [different], asked.failures, what=what)
        if different < len(hellos):
            findings.broken.append(f"{len(hellos)} guests have only {different} values of {what}")


def wakes(findings: Collector, sandbox: Sandbox) -> None:
    """Add the wake-ups of one idle guest, by kernel function, if its kernel can trace them."""
    try:
        if not can_trace(sandbox.agent):
            why = "the guest's kernel has no tracing"
            findings.add("wakes", "1/s", [], [(0, why, NOT_OFFERED)])
            return
        found = trace(sandbox.agent, TRACED_S)
    except CoppiceError as error:
        findings.add("wakes", "1/s", [], [(0, reason(error))])
        return
    for function, often in found.items():
        findings.add("wakes", "1/s", [often], function=function)
