"""The network page: round trips, throughput, and the cost of policy changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.measure.record import Facts, Scalar
from harness.site.charts.chart import Chart, ChartRow, with_conditions
from harness.site.charts.scaling import Curve, Point, Reference, ScalingPicture
from harness.site.charts.strip import ReferenceLine, Strip, StripPicture
from harness.site.data import figures, network
from harness.site.data.addresses import published_page
from harness.site.data.corpus import Corpus
from harness.site.data.network import RigRecord
from harness.site.data.publishers import short
from harness.site.page import Document, Item, Nav, Page

_LABELS = {
    "loopback": "loopback",
    "veth": "veth pair",
    "bridge": "bridge without policy",
    "policy": "cubenet: bridge with policy",
    "microvm": "microVM to microVM",
}
_STATISTICS = ("p50", "p90", "p99", "stddev")
_TRANSPORTS = {
    "netlink": "nftables via netlink (cubenet)",
    "netlink from JSON": "the same, from a JSON policy",
    "libnftables": "nftables via libnftables",
    "nft program": "nftables via the nft program",
    "batch in place": "eBPF trie, not atomic",
    "swap": "eBPF trie, swapped",
}
_PUBLISHED = {topic: f"{published_page(topic)}#{topic}" for topic in ("network", "policy")}
"""Where the published figures of this page's topics stand."""


def _rtt_chart(corpus: Corpus, rtt: RigRecord) -> Chart:
    strips, rows = [], []
    note = rtt.entry.status_note
    for path in network.PATHS:
        found = rtt.find("rtt", path=path, cores=1, tool="exchange")
        missing = "" if found else "not measured on this host"
        rows.append(ChartRow(_LABELS[path], *(found or (None, None))))
        strips.append(
            Strip(_LABELS[path], found[1] if found else None, note or missing, warn=bool(note))
        )
    figure = corpus.beside.lines.get("rtt")
    line = None
    if figure:
        line = ReferenceLine(
            figure, f"{short(figure.publisher)}: {figure.marked}", "pf on FreeBSD, p50"
        )
        rows.append(ChartRow(f"{figure.publisher}: {figure.what}", published=figure))
    title = "Round trip, both ends on one core"
    strips = with_conditions(strips, rows)
    return Chart("charts/rtt", title, StripPicture("rtt", title, strips, line), rows)


def _references(corpus: Corpus, rig: str, metric: str, where: Facts) -> Sequence[Reference]:
    """The published figures beside a metric, each at its number of entries or sandboxes."""
    return [
        Reference(one.figure, f"{short(one.figure.publisher)} {one.figure.as_written}", n)
        for one in corpus.beside.of(rig, metric, where)
        if isinstance(n := one.where["n"], int)
    ]


def _rows(measured: RigRecord, label: str, metric: str, **dimensions: Scalar) -> Sequence[ChartRow]:
    """A curve's points as table rows."""
    found = [
        (one.dimensions.get("n"), one)
        for one in measured.entry.record.series
        if one.metric == metric
        and all(one.dimensions.get(name) == value for name, value in dimensions.items())
    ]
    return [ChartRow(f"{label}, {n}", measured.entry, one) for n, one in found if n]


def _published_rows(marks: Sequence[Reference]) -> Sequence[ChartRow]:
    return [
        ChartRow(f"{one.figure.publisher}: {one.figure.what}", published=one.figure)
        for one in marks
    ]


def _curve(measured: RigRecord, label: str, metric: str, **dimensions: Scalar) -> Curve:
    """A metric by `n`, from the series with these dimensions; n of 0 is left out (log axis)."""
    points = []
    for one in measured.entry.record.series:
        n = one.dimensions.get("n")
        fits = all(one.dimensions.get(name) == value for name, value in dimensions.items())
        value = figures.get(one, "p50")
        if one.metric == metric and fits and isinstance(n, int) and n > 0 and value:
            points.append(Point(n, value))
    return Curve(label, points, measured.entry.status_note)


def _update_chart(corpus: Corpus, update: RigRecord) -> Chart:
    curves = [
        _curve(update, label, "policy-update", transport=transport, others=0)
        for transport, label in _TRANSPORTS.items()
    ]
    marks = _references(corpus, "policy-update", "policy-update", {"others": 0})
    across = "addresses replaced"
    title = "Replacing a policy's addresses"
    rows = [
        row
        for transport, label in _TRANSPORTS.items()
        for row in _rows(update, label, "policy-update", transport=transport, others=0)
    ]
    picture = ScalingPicture("update", title, "s", across, curves, marks)
    return Chart("charts/policy-update", title, picture, [*rows, *_published_rows(marks)])


def _churn_chart(corpus: Corpus, churn: RigRecord) -> Chart:
    curves: list[Curve] = [
        _curve(churn, "rules added", "rule-add"),
        _curve(churn, "rules removed", "rule-remove"),
    ]
    marks = _references(corpus, "policy-churn", "rule-add", {})
    title = "Adding and removing one sandbox's rules beside N others"
    rows = [*_rows(churn, "rules added", "rule-add"), *_rows(churn, "rules removed", "rule-remove")]
    picture = ScalingPicture("churn", title, "s", "other sandboxes", curves, marks)
    return Chart("charts/policy-churn", title, picture, [*rows, *_published_rows(marks)])


def charts(corpus: Corpus) -> dict[str, Chart | None]:
    """The charts of the page by name; None where this machine has no record of it."""
    rtt = network.newest(corpus, "net-rtt")
    update = network.newest(corpus, "policy-update")
    churn = network.newest(corpus, "policy-churn")
    return {
        "rtt": _rtt_chart(corpus, rtt) if rtt else None,
        "update": _update_chart(corpus, update) if update else None,
        "churn": _churn_chart(corpus, churn) if churn else None,
    }


def _render(corpus: Corpus) -> Iterator[Item]:
    rtt = network.newest(corpus, "net-rtt")
    throughput = network.newest(corpus, "net-throughput")
    update = network.newest(corpus, "policy-update")
    churn = network.newest(corpus, "policy-churn")
    enforcement = network.newest(corpus, "policy-enforcement")
    drawn = charts(corpus)
    for chart in drawn.values():
        if chart:
            yield from chart.assets()
    yield Document(
        "network.html",
        "network.html",
        "Network",
        "Round trips and throughput under policy, and the cost of policy changes.",
        {
            "labels_of": _LABELS,
            "paths": network.PATHS,
            "cores_of": network.CORES,
            "statistics": _STATISTICS,
            "transports": _TRANSPORTS,
            "rtt": rtt,
            "rtt_chart": drawn["rtt"],
            "costs": network.costs(rtt) if rtt else (),
            "throughput": throughput,
            "share_of_loopback": network.share_of_loopback,
            "update": update,
            "update_chart": drawn["update"],
            "churn": churn,
            "churn_chart": drawn["churn"],
            "enforcement": enforcement,
            "published": [
                (topic, address, sum(one.topic == topic for one in corpus.published))
                for topic, address in _PUBLISHED.items()
            ],
        },
    )


PAGE = Page(_render, Nav("Network", "network.html", 12))
