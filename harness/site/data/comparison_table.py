"""The front page's comparison: kinds of sandbox side by side, each cell measured here or quoted.

What was measured comes from the `compare` rig where it has the series, else from the cold-start
and density rigs. A cell without either says that it was not measured on this host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.claims.published import Figure
from harness.measure.quantity import thousands
from harness.site.data import compare, e2b, figures
from harness.site.data.corpus import Corpus, Entry
from harness.site.data.record_summary import Line

RIGS = ("compare", "cold-start")
RUNGS = ("first-exec", "cold-start", "first-reply")
"""What every kind of sandbox can be asked for: a command's output. Others where it is missing."""


@dataclass(frozen=True)
class Column:
    """A kind of sandbox. `substrate` tells the names of substrates that are of this kind, `sharing`
    which fleets of theirs."""

    title: str
    aside: str
    substrate: Callable[[str], bool]
    tier: str | None = None
    sharing: str | None = None


@dataclass(frozen=True)
class Cell:
    """Words, a figure of ours, and figures that others publish; any may be missing.

    `by` divides ours. `absent`: it could be measured, and was not; `proved`: it works elsewhere.
    """

    words: str = ""
    measured: tuple[Entry, Line] | None = None
    statistic: str = "p50"
    by: int = 1
    published: Sequence[Figure] = ()
    absent: bool = False
    proved: tuple[Entry, Line] | None = None
    source: Entry | None = None
    """Whose word the words are."""


@dataclass(frozen=True)
class TableRow:
    title: str
    aside: str
    cells: Sequence[Cell]


COLUMNS = (
    Column("CubeSandbox", "published", lambda name: False),
    Column("Docker", "", lambda name: name == "docker"),
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
    Column("Jail", "FreeBSD", lambda name: name.startswith("jail")),
    Column("bhyve", "FreeBSD", lambda name: name == "bhyve", "durable-prewarm-pool"),
)  # fmt: skip
_QUOTED: Mapping[str, Mapping[int, Sequence[str]]] = {
    "start": {
        0: ("cubesandbox.readme.cc1",),
        1: ("coppice.docker",),
        7: ("coppice.jail-zfs-clone.cc1-table",),
        8: ("coppice.bhyve-durable-prewarm-pool.cc1-p50",),
    },
    "ten": {
        0: ("cubesandbox.june.cc10-p95",),
        7: ("coppice.jail-zfs-clone.cc10-p95",),
        8: ("coppice.bhyve-durable-prewarm-pool.cc10-p95",),
    },
    "memory": {
        0: ("cubesandbox.readme.memory", "cubesandbox.june.density-1000"),
        7: ("coppice.memory.jail",),
        8: ("coppice.memory.bhyve",),
    },
    "fleet": {
        0: ("cubesandbox.readme.density",),
        7: ("coppice.density.jails",),
        8: ("coppice.density.host-32g",),
    },
    "sdk": {0: ("cubesandbox.e2b",), 8: ("coppice.e2b.calls",)},
}


def _measured(
    corpus: Corpus, column: Column, concurrency: int, statistic: str
) -> tuple[Entry, Line] | None:
    """The newest series of a command's output; of several shapes of a kind the fastest."""
    for rig in RIGS:
        for metric in RUNGS:
            usable = [
                (entry, line)
                for _, entry, line in corpus.newest(rig, corpus.machine, metric)
                if _fits(line, column, concurrency) and line.get(statistic)
            ]
            if usable:
                return min(usable, key=lambda one: _value(one[1], statistic))
    return None


def _proved(corpus: Corpus, column: Column) -> tuple[Entry, Line] | None:
    """Where no figure may be told: the newest series that shows that this kind works."""
    for (rig, _), entries in corpus.proving.items():
        for entry in reversed(entries) if rig in RIGS else ():
            for line in entry.brief.lines:
                if line.metric in RUNGS and line.n and _fits(line, column, 1):
                    return entry, line
    return None


def _value(line: Line, statistic: str) -> float:
    found = figures.get(line, statistic)
    assert found
    return found.value


def _fits(line: Line, column: Column, concurrency: int) -> bool:
    facts = line.dimensions
    return (
        column.substrate(str(facts.get("substrate")))
        and facts.get("concurrency", 1) == concurrency
        and (column.tier is None or facts.get("tier", column.tier) == column.tier)
        and facts.get("vmm", "waits") == "waits"
    )


def _fleet(corpus: Corpus, column: Column) -> tuple[Entry, Line, int] | None:
    """The largest fleet at rest of this kind that nothing disturbed, else of any: what all of it
    takes, and how many came up."""
    best: tuple[tuple[bool, int, bool, int, int], Entry, Line] | None = None
    for rig in ("density", "compare"):
        for kind, several in corpus.told(rig, corpus.machine, "host-change").items():
            facts = kind.dimensions
            if (
                facts.get("work", "idle") != "idle"
                or facts.get("counted", "to-be-had") != "to-be-had"
                or not column.substrate(str(facts.get("substrate")))
                or (column.sharing and facts.get("sharing", column.sharing) != column.sharing)
            ):
                continue
            for at, entry, line in several:
                up = entry.brief.find("bring-up", {})
                many = facts.get("up") or (up.n if up and up.n else facts.get("n"))
                if not isinstance(many, int) or not line.n:
                    continue
                rank = (entry.brief.validity.status == "valid", many, rig == "compare", at,
                        line.number)  # fmt: skip
                if best is None or rank >= best[0]:
                    best = (rank, entry, line)
    return (best[1], best[2], best[0][1]) if best else None


def _quotes(corpus: Corpus, row: str, column: int) -> Sequence[Figure]:
    ids = _QUOTED[row].get(column, ())
    return [one for id in ids if (one := corpus.figure(id))]


def rows(corpus: Corpus) -> Sequence[TableRow]:
    """The table, row by row; the same columns in each."""
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
        starts.append(Cell("", one, "p50", 1, _quotes(corpus, "start", at), ours, works))
        tens.append(Cell("", ten, "p95", 1, _quotes(corpus, "ten", at), ours))
        taken = (fleet[0], fleet[1]) if fleet else None
        by = fleet[2] if fleet else 1
        memory.append(Cell("", taken, "p50", by, _quotes(corpus, "memory", at), ours))
        fleets.append(
            Cell(f"{thousands(by)} at once, alive" if fleet else "", None, "p50", 1,
                 _quotes(corpus, "fleet", at), ours and not fleet)
        )  # fmt: skip
        sdk.append(_served(corpus, column, _quotes(corpus, "sdk", at)) if ours else
                   Cell(published=_quotes(corpus, "sdk", at)))  # fmt: skip
    kinds = compare.kinds(corpus)
    return (
        TableRow("Isolation", "what stands between two; whose kernel, read inside", [
            _said(column, words, kinds, "own-kernel", {True: "kernel of its own",
                                                       False: "shared kernel"})
            for column, words in zip(COLUMNS, _ISOLATION, strict=True)
        ]),
        TableRow("Cold start", "one at a time, until a command has run; median", starts),
        TableRow("Ten at once", "the same, p95", tens),
        TableRow("After a reboot", "of the host, as near as one can be tried", [
            _said(column, words, kinds, "state-survives", {True: "its state is on disk",
                                                           False: "starts anew"})
            for column, words in zip(COLUMNS, _DURABLE, strict=True)
        ]),
        TableRow("Memory each", "the host's whole change, at rest", memory),
        TableRow("How many", "on this host", fleets),
        TableRow("Network policy", "enforced by; what a sandbox reached", [
            _reached(column, words, kinds)
            for column, words in zip(COLUMNS, _NETWORK, strict=True)
        ]),
        TableRow("E2B SDK", "operations that work", sdk),
    )  # fmt: skip


def _of_kind(column: Column, kinds: Sequence[compare.Kind]) -> Iterator[compare.Kind]:
    for one in kinds:
        if column.substrate(one.substrate) and column.tier in (None, one.tier):
            yield one


def _said(
    column: Column, words: str, kinds: Sequence[compare.Kind], metric: str,
    means: Mapping[bool, str],
) -> Cell:  # fmt: skip
    """The words, with the record that bears them out; what it says where it says otherwise."""
    for one in _of_kind(column, kinds):
        if found := one.says(metric):
            entry, value = found
            return Cell(words if means[not value] not in words else means[value], source=entry)
    return Cell(words)


def _reached(column: Column, words: str, kinds: Sequence[compare.Kind]) -> Cell:
    """Who enforces it, and what came of trying; the shapes with a card tell of their kind."""
    found = [reaches for one in _of_kind(column, kinds) if (reaches := one.reaches)]
    for entry, said in sorted(found, key=lambda one: one[1] in ("no card", "not tried")):
        return Cell(said if said == "no card" else f"{words}: {said}", source=entry)
    return Cell(words)


def _served(corpus: Corpus, column: Column, published: Sequence[Figure]) -> Cell:
    """How many of an SDK's operations work, where our gateway serves this kind."""
    if not column.substrate("qemu"):
        return Cell("not served here", published=published)
    matrix = e2b.matrix(corpus)
    if not matrix:
        return Cell("through our gateway", published=published)
    scores = [score for plane in matrix.planes for score in plane.scores]
    works, of = sum(one.works for one in scores), sum(one.of for one in scores)
    return Cell(
        f"{works} of {of}, over {len(matrix.sdks)} SDKs", published=published, source=matrix.entry
    )


_ISOLATION = (
    "kernel of its own, eBPF network",
    "shared kernel, namespaces",
    "shared kernel, namespaces",
    "kernel of its own, in user space",
    "kernel of its own",
    "kernel of its own",
    "kernel of its own",
    "shared kernel, jail",
    "kernel of its own",
)
_DURABLE = (
    "snapshots",
    "starts anew",
    "starts anew",
    "starts anew",
    "boots from its disk",
    "its state is on disk: restored from its checkpoint",
    "its state is on disk: the pool refills from its checkpoint",
    "cloned anew",
    "restored from its checkpoint",
)
_NETWORK = (
    "eBPF on each card",
    "iptables, by itself",
    "nf_tables by netlink",
    "none here",
    "none here",
    "nf_tables by netlink",
    "nf_tables by netlink",
    "pf anchors",
    "pf anchors",
)
