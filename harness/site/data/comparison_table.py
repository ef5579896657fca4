"""The front page's comparison of kinds of sandbox; each cell is measured here or quoted.

Measured figures come from the `compare` rig if it has the series, else from the cold-start and
density rigs. A cell with neither says that it was not measured on this host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.claims.published import Figure
from harness.measure.conditions import GUEST_KERNEL
from harness.measure.quantity import thousands
from harness.site.data import compare, e2b, figures
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.record_summary import SeriesSummary

RIGS = ("compare", "cold-start")
RUNGS = ("first-exec", "cold-start", "first-reply")
"""The rung that every kind of sandbox has, a command's output, then fallbacks."""


@dataclass(frozen=True)
class Column:
    """A kind of sandbox. `substrate` matches the names of its substrates, `sharing` selects their
    fleets."""

    title: str
    aside: str
    substrate: Callable[[str], bool]
    tier: str | None = None
    sharing: str | None = None
    kind: str = ""
    """Its name in beside.yaml, if others publish figures of it."""


@dataclass(frozen=True)
class ComparisonCell:
    """Text, our figure, and published figures; any may be missing.

    `by` divides our figure. `absent`: it could have been measured but was not; `proved`: a
    function-only record shows that it works.
    """

    words: str = ""
    measured: tuple[RecordEntry, SeriesSummary] | None = None
    statistic: str = "p50"
    by: int = 1
    published: Sequence[Figure] = ()
    absent: bool = False
    proved: tuple[RecordEntry, SeriesSummary] | None = None
    source: RecordEntry | None = None
    """The record that the text is based on."""


@dataclass(frozen=True)
class ComparisonRow:
    title: str
    aside: str
    cells: Sequence[ComparisonCell]


COLUMNS = (
    Column("CubeSandbox", "published", lambda name: False, kind="cubesandbox"),
    Column("Docker", "", lambda name: name == "docker", kind="docker"),
    Column("Container", "runc", lambda name: name.startswith("oci"), "full"),
    Column("gVisor", "", lambda name: name == "gvisor", "full"),
    Column("Traditional VM", "QEMU, firmware and systemd", lambda name: name == "vm"),
    Column(
        "microVM", "QEMU, restored from disk", lambda name: name == "qemu",
        "durable-pool", "mapped",
    ),
    Column(
        "microVM", "QEMU, kept in memory", lambda name: name == "qemu",
        "durable-prewarm-pool", "forked",
    ),
    Column("Jail", "FreeBSD", lambda name: name.startswith("jail"), kind="jail"),
    Column("bhyve", "FreeBSD", lambda name: name == "bhyve", "durable-prewarm-pool", kind="bhyve"),
)  # fmt: skip


def _measured(
    corpus: Corpus, column: Column, concurrency: int, statistic: str
) -> tuple[RecordEntry, SeriesSummary] | None:
    """The newest series of a command's output; the fastest of several variants."""
    for rig in RIGS:
        for metric in RUNGS:
            usable = [
                (entry, series)
                for _, entry, series in corpus.newest(rig, corpus.machine, metric)
                if _fits(series, column, concurrency) and series.get(statistic)
            ]
            if usable:
                return min(usable, key=lambda one: _value(one[1], statistic))
    return None


def _proved(corpus: Corpus, column: Column) -> tuple[RecordEntry, SeriesSummary] | None:
    """The newest function-only series that shows that this kind works."""
    for (rig, _), entries in corpus.function_only_records.items():
        for entry in reversed(entries) if rig in RIGS else ():
            for series in entry.summary.series:
                fits = series.metric in RUNGS and series.n and _fits(series, column, 1)
                if fits and entry.summary.proves(series):
                    return entry, series
    return None


def _value(series: SeriesSummary, statistic: str) -> float:
    found = figures.get(series, statistic)
    assert found
    return found.value


def _fits(series: SeriesSummary, column: Column, concurrency: int) -> bool:
    facts = series.dimensions
    return (
        column.substrate(str(facts.get("substrate")))
        and facts.get("concurrency", 1) == concurrency
        and (column.tier is None or facts.get("tier", column.tier) == column.tier)
        and facts.get("vmm", "waits") == "waits"
        and GUEST_KERNEL not in facts
    )


def _fleet(corpus: Corpus, column: Column) -> tuple[RecordEntry, SeriesSummary, int] | None:
    """The largest idle fleet of this kind, undisturbed ones first: host memory used, and how many
    sandboxes came up."""
    best: tuple[tuple[bool, int, bool, int, int], RecordEntry, SeriesSummary] | None = None
    for rig in ("density", "compare"):
        for kind, several in corpus.series_of(rig, corpus.machine, "host-change").items():
            facts = kind.dimensions
            if (
                facts.get("work", "idle") != "idle"
                or facts.get("counted", "to-be-had") != "to-be-had"
                or not column.substrate(str(facts.get("substrate")))
                or GUEST_KERNEL in facts
                or (column.sharing and facts.get("sharing", column.sharing) != column.sharing)
            ):
                continue
            for at, entry, series in several:
                up = entry.summary.find("bring-up", {})
                many = facts.get("up") or (up.n if up and up.n else facts.get("n"))
                if not isinstance(many, int) or not series.n:
                    continue
                rank = (entry.summary.validity.status == "valid", many, rig == "compare", at,
                        series.number)  # fmt: skip
                if best is None or rank >= best[0]:
                    best = (rank, entry, series)
    return (best[1], best[2], best[0][1]) if best else None


def rows(corpus: Corpus) -> Sequence[ComparisonRow]:
    """The rows of the table; all have the same columns."""
    starts, tens, memory, fleets, sdk = [], [], [], [], []
    for at, column in enumerate(COLUMNS):
        ours = at > 0
        one, ten = (
            (_measured(corpus, column, 1, "p50"), _measured(corpus, column, 10, "p95"))
            if ours
            else (None, None)
        )
        fleet = _fleet(corpus, column) if ours else None
        works = _proved(corpus, column) if ours and not one else None
        starts.append(
            ComparisonCell("", one, "p50", 1, corpus.beside.kind("start", column.kind), ours, works)
        )
        tens.append(ComparisonCell("", ten, "p95", 1, corpus.beside.kind("ten", column.kind), ours))
        taken = (fleet[0], fleet[1]) if fleet else None
        by = fleet[2] if fleet else 1
        memory.append(
            ComparisonCell("", taken, "p50", by, corpus.beside.kind("memory", column.kind), ours)
        )
        fleets.append(
            ComparisonCell(f"{thousands(by)} running" if fleet else "", None, "p50", 1,
                 corpus.beside.kind("fleet", column.kind), ours and not fleet)
        )  # fmt: skip
        sdk.append(_sdk_cell(corpus, column, corpus.beside.kind("sdk", column.kind)) if ours else
                   ComparisonCell(published=corpus.beside.kind("sdk", column.kind)))  # fmt: skip
    kinds = compare.compared(corpus)
    return (
        ComparisonRow("Isolation", "boundary between sandboxes; kernel checked from inside", [
            _flag_cell(column, words, kinds, "own-kernel", {True: "own kernel",
                                                       False: "shared kernel"})
            for column, words in zip(COLUMNS, _ISOLATION, strict=True)
        ]),
        ComparisonRow("Cold start", "one at a time, until a command has run; median", starts),
        ComparisonRow("Ten at once", "the same; p95", tens),
        ComparisonRow("After a reboot", "simulated host reboot", [
            _flag_cell(column, words, kinds, "state-survives", {True: "state on disk",
                                                           False: "starts from scratch"})
            for column, words in zip(COLUMNS, _DURABLE, strict=True)
        ]),
        ComparisonRow("Memory per sandbox", "host memory used, all idle; median", memory),
        ComparisonRow("Sandboxes at once", "on this host", fleets),
        ComparisonRow("Network policy", "enforced by; what a sandbox could reach", [
            _network_cell(column, words, kinds)
            for column, words in zip(COLUMNS, _NETWORK, strict=True)
        ]),
        ComparisonRow("E2B SDK", "calls that work", sdk),
    )  # fmt: skip


def _of_kind(
    column: Column, kinds: Sequence[compare.ComparedSubstrate]
) -> Iterator[compare.ComparedSubstrate]:
    for one in kinds:
        if column.substrate(one.substrate) and column.tier in (None, one.tier):
            yield one


def _flag_cell(
    column: Column, words: str, kinds: Sequence[compare.ComparedSubstrate], metric: str,
    means: Mapping[bool, str],
) -> ComparisonCell:  # fmt: skip
    """The text, linked to a record that confirms it; the record's finding if it differs."""
    for one in _of_kind(column, kinds):
        if found := one.flag(metric):
            entry, value = found
            return ComparisonCell(
                words if means[not value] not in words else means[value], source=entry
            )
    return ComparisonCell(words)


def _network_cell(
    column: Column, words: str, kinds: Sequence[compare.ComparedSubstrate]
) -> ComparisonCell:
    """What enforces policy, and the test's outcome; variants with a NIC take precedence."""
    found = [reach for one in _of_kind(column, kinds) if (reach := one.reachability)]
    for entry, outcome in sorted(found, key=lambda one: one[1] in ("no NIC", "not tested")):
        return ComparisonCell(
            outcome if outcome == "no NIC" else f"{words}; {outcome}", source=entry
        )
    return ComparisonCell(words)


def _sdk_cell(corpus: Corpus, column: Column, published: Sequence[Figure]) -> ComparisonCell:
    """How many of the SDK's calls work, if our gateway serves this kind."""
    if not column.substrate("qemu"):
        return ComparisonCell("not supported by our gateway", published=published)
    matrix = e2b.matrix(corpus)
    if not matrix:
        return ComparisonCell("through our gateway", published=published)
    return ComparisonCell(matrix.score, published=published, source=matrix.entry)


_ISOLATION = (
    "own kernel, eBPF network",
    "shared kernel, namespaces",
    "shared kernel, namespaces",
    "own kernel, in user space",
    "own kernel",
    "own kernel",
    "own kernel",
    "shared kernel, jail",
    "own kernel",
)
_DURABLE = (
    "snapshots",
    "starts from scratch",
    "starts from scratch",
    "starts from scratch",
    "boots from its disk",
    "state on disk: restored from its checkpoint",
    "state on disk: the pool refills from its checkpoint",
    "cloned again",
    "restored from its checkpoint",
)
_NETWORK = (
    "eBPF on each NIC",
    "iptables, set up by Docker",
    "nf_tables via netlink",
    "none here",
    "none here",
    "nf_tables via netlink",
    "nf_tables via netlink",
    "pf anchors",
    "pf anchors",
)
