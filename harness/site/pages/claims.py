"""The claims: a list with verdicts, and a page for each with its clocks, chart and limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.claims import decision, published, systems, verdict
from harness.claims.claims import Claim
from harness.measure.conditions import SYSTEM
from harness.site.charts.chart import Chart, ChartRow, with_conditions
from harness.site.charts.clock import EVENTS, ClockSpan, ClocksPicture
from harness.site.charts.strip import ReferenceLine, Strip, StripPicture
from harness.site.data import evidence, figures
from harness.site.data.corpus import Corpus
from harness.site.data.evidence import Judged
from harness.site.data.publishers import short
from harness.site.data.renewals import renewals
from harness.site.page import Document, Item, Nav, Page

_MACHINES = 24
"""The most machines whose verdicts a claim's page lists."""


def clocks(claim: Claim, several: Sequence[Judged]) -> ClocksPicture | None:
    """The drawing of their clock and ours, for claims about cold starts."""
    if claim.figure.topic != "cold-start":
        return None
    theirs = published.clocks()[claim.figure.clock]
    drawn = [
        ClockSpan(
            short(claim.figure.publisher),
            theirs.title if theirs.ours else "clock not stated",
            theirs.ours if theirs.ours in EVENTS else None,
            exact=False,
            ours=False,
        )
    ]
    seen: set[str] = set()
    for one in several:
        metric = one.answer.metric
        if metric in seen:
            continue
        seen.add(metric)
        if metric in EVENTS:
            drawn.append(ClockSpan("ours", f"stops at {metric}", metric))
        elif metric == "create-headers":
            drawn.append(ClockSpan("ours", "stops at API response", "resumed", False))
    return ClocksPicture(f"clocks-{claim.id}", drawn)


def chart_of(claim: Claim, several: Sequence[Judged]) -> Chart | None:
    """Every sample of each answer on one axis with the claimed value; None if there are none."""
    strips, rows = [], []
    for one in several:
        found = one.found
        if not found or not found.summary.n or found.summary.unit != claim.figure.unit:
            continue
        if figures.withheld(found.entry, found.summary) or one.answer.statistic in ("sum", "count"):
            continue
        label = f"{found.summary.metric}{_short(one)}"
        note = found.entry.status_note
        strips.append(Strip(label, found.full_series, note, warn=bool(note), by=found.by))
        rows.append(ChartRow(label, found.entry, found.summary, by=found.by))
    value = claim.figure.value
    if not strips or value is None or claim.figure.unit == "1":
        return None
    figure = claim.figure
    line = ReferenceLine(
        figure, f"{short(figure.publisher)}: {figure.marked}", f"{figure.statistic}, published"
    )
    strips = with_conditions(strips, rows)
    picture = StripPicture(f"chart-{claim.id}", claim.title, strips, line, figure.unit)
    rows.append(ChartRow(f"{figure.publisher}: {figure.what}", published=figure))
    return Chart(f"claims/{claim.id}", claim.title, picture, rows)


def _short(one: Judged) -> str:
    """What distinguishes an answer from the others, in one word, since phones are narrow."""
    names = ("tool", "sdk", "transport", "sharing", "vmm", "substrate", "path")
    return next((f", {one.answer.where[name]}" for name in names if name in one.answer.where), "")


_TOLD = ("system", "substrate", "tier", "sharing", "path", "transport", "vmm", "tool", "sdk")


def _of_endpoint(one: Judged) -> bool:
    """Whether an answer needs a record of an endpoint: only where there is one, it is listed."""
    return one.answer.where.get(SYSTEM) is not None


def _where(one: Judged) -> str:
    facts = [str(value) for name, value in one.answer.where.items() if name in _TOLD]
    many, n = one.answer.where.get("concurrency"), one.answer.where.get("n")
    if many:
        facts.append(f"{many} at once")
    if n:
        facts.append(f"n {n}")
    return f", {', '.join(facts)}" if facts else ""


def _render(corpus: Corpus) -> Iterator[Item]:
    rows = []
    for claim in corpus.claims:
        several = evidence.judged(corpus, claim, corpus.machine)
        decided = evidence.deciding(several)
        rows.append((claim, decided))
        chart, spans = chart_of(claim, several), clocks(claim, several)
        if chart:
            yield from chart.assets()
        others = [
            (entries[-1].summary.machine, evidence.deciding(evidence.judged(corpus, claim, id)))
            for id, entries in list(corpus.machines.items())[:_MACHINES]
            if id != corpus.machine
        ]
        yield Document(
            f"claims/{claim.id}.html",
            "claim.html",
            claim.title,
            f"{claim.figure.publisher}: {claim.quote}",
            {
                "claim": claim,
                "system": systems.title(claim.system),
                "system_of": systems.title,
                "decided": decided,
                "answers": [one for one in several if one.found or not _of_endpoint(one)],
                "proofs": evidence.proofs(corpus, claim)[:_MACHINES],
                "where": _where,
                "chart": chart,
                "clock_drawing": spans.svg() if spans else None,
                "others": [(machine, one) for machine, one in others if one and one.found],
                "machine": corpus.machines[corpus.machine][-1].summary.machine
                if corpus.machine
                else None,
                "clock": published.clocks()[claim.figure.clock],
                "related": [
                    one
                    for one in corpus.published
                    if one.topic == claim.figure.topic and one.publisher == claim.figure.publisher
                    and one.unit == claim.figure.unit and one.id != claim.figure.id
                    and one.concurrency == claim.figure.concurrency
                ][:12],
            },
        )  # fmt: skip
    publishers = list(dict.fromkeys(claim.figure.publisher for claim, _ in rows))
    yield Document(
        "claims.html",
        "claims.html",
        "Claims",
        "Every claim with its verdict on this machine.",
        {
            "groups": {
                name: [row for row in rows if row[0].figure.publisher == name]
                for name in publishers
            },
            "tally": evidence.tally([decided for _, decided in rows]),
            "meanings": verdict.MEANING,
            "rule": decision.RULE,
            "ranked": evidence.RANKED,
            "renewals": renewals(corpus),
            "machine": corpus.machines[corpus.machine][-1].summary.machine
            if corpus.machine
            else None,
        },
    )


PAGE = Page(_render, Nav("Claims", "claims.html", 5))
