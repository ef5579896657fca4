"""The network page: round trips, throughput, and how policies change, each beside what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.measure.record import Scalar
from harness.site.builder.page import Document, Item, Nav, Page
from harness.site.charts.chart import Chart, Row
from harness.site.charts.scaling import Curve, Reference, scaling_chart
from harness.site.charts.strip import Line, Strip, strip_chart
from harness.site.data import network
from harness.site.data.corpus import Corpus
from harness.site.data.network import Measured

_LABELS = {
    "loopback": "loopback",
    "veth": "veth: a pair of cards",
    "bridge": "bridge without policy",
    "policy": "cubenet: bridge with policy",
    "microvm": "microVM to microVM",
}
_STATISTICS = ("p50", "p90", "p99", "stddev")
_TRANSPORTS = {
    "netlink": "nftables by netlink (cubenet)",
    "netlink from JSON": "the same, from the text of a policy",
    "libnftables": "nftables by its library",
    "nft program": "nftables by its program",
    "batch in place": "eBPF trie, changed in place: not one step",
    "swap": "eBPF trie, replaced by another",
}
_REPLACE, _SINGLE = "coppice.policy.replace", "nftban.single"
_ANCHORS = {"coppice.policy.anchor-1000": 1000, "coppice.policy.anchor-2000": 2000}
_RTT = "coppice.net.rtt-p50"
_PUBLISHED = ("network", "policy")


def _rtt_chart(corpus: Corpus, rtt: Measured) -> Chart:
    strips, rows = [], []
    status = rtt.entry.brief.validity.status
    note = "" if status == "valid" else status
    for path in network.PATHS:
        found = rtt.find("rtt", path=path, cores=1, tool="exchange")
        missing = "" if found else "not measured on this host"
        rows.append(Row(_LABELS[path], *(found or (None, None))))
        strips.append(
            Strip(_LABELS[path], found[1] if found else None, note or missing, warn=bool(note))
        )
    figure = corpus.figure(_RTT)
    line = None
    if figure:
        line = Line(figure, f"Coppice: {figure.as_written}", "pf on FreeBSD, p50")
        rows.append(Row(f"{figure.publisher}: {figure.what}", published=figure))
    title = "Round trip, both ends on one core"
    return Chart("charts/rtt", title, strip_chart("rtt", title, strips, line), rows)


def _reference(corpus: Corpus, id: str, n: int) -> Sequence[Reference]:
    figure = corpus.figure(id)
    return [Reference(figure, f"{figure.publisher} {figure.as_written}", n)] if figure else []


def _rows(measured: Measured, label: str, metric: str, **dimensions: Scalar) -> Sequence[Row]:
    """A curve's points as rows of a table."""
    found = [
        (one.dimensions.get("n"), one)
        for one in measured.entry.record.series
        if one.metric == metric
        and all(one.dimensions.get(name) == value for name, value in dimensions.items())
    ]
    return [Row(f"{label}, {n}", measured.entry, one) for n, one in found if n]


def _published_rows(marks: Sequence[Reference]) -> Sequence[Row]:
    return [
        Row(f"{one.figure.publisher}: {one.figure.what}", published=one.figure) for one in marks
    ]


def _update_chart(corpus: Corpus, update: Measured) -> Chart:
    curves = [
        network.curve(update, label, "policy-update", transport=transport, others=0)
        for transport, label in _TRANSPORTS.items()
    ]
    marks = [*_reference(corpus, _REPLACE, 1000), *_reference(corpus, _SINGLE, 1)]
    across = "addresses replaced by others"
    title = "Replacing a policy's addresses"
    rows = [
        row
        for transport, label in _TRANSPORTS.items()
        for row in _rows(update, label, "policy-update", transport=transport, others=0)
    ]
    drawing = scaling_chart("update", title, "s", across, curves, marks)
    return Chart("charts/policy-update", title, drawing, [*rows, *_published_rows(marks)])


def _churn_chart(corpus: Corpus, churn: Measured) -> Chart:
    curves: list[Curve] = [
        network.curve(churn, "one added", "rule-add"),
        network.curve(churn, "one removed", "rule-remove"),
    ]
    marks = [one for id, n in _ANCHORS.items() for one in _reference(corpus, id, n)]
    title = "Rules of one sandbox beside N others"
    rows = [*_rows(churn, "one added", "rule-add"), *_rows(churn, "one removed", "rule-remove")]
    drawing = scaling_chart("churn", title, "s", "sandboxes there", curves, marks)
    return Chart("charts/policy-churn", title, drawing, [*rows, *_published_rows(marks)])


def _render(corpus: Corpus) -> Iterator[Item]:
    rtt = network.newest(corpus, "net-rtt")
    throughput = network.newest(corpus, "net-throughput")
    update = network.newest(corpus, "policy-update")
    churn = network.newest(corpus, "policy-churn")
    enforcement = network.newest(corpus, "policy-enforcement")
    charts = {
        "rtt": _rtt_chart(corpus, rtt) if rtt else None,
        "update": _update_chart(corpus, update) if update else None,
        "churn": _churn_chart(corpus, churn) if churn else None,
    }
    for chart in charts.values():
        if chart:
            yield from chart.assets()
    yield Document(
        "network.html",
        "network.html",
        "Network",
        "Round trips and throughput between sandboxes under policy, and how policies change.",
        {
            "labels_of": _LABELS,
            "paths": network.PATHS,
            "cores_of": network.CORES,
            "statistics": _STATISTICS,
            "transports": _TRANSPORTS,
            "rtt": rtt,
            "rtt_chart": charts["rtt"],
            "costs": network.costs(rtt) if rtt else (),
            "throughput": throughput,
            "share_of_loopback": network.share_of_loopback,
            "update": update,
            "update_chart": charts["update"],
            "churn": churn,
            "churn_chart": charts["churn"],
            "enforcement": enforcement,
            "published": [one for one in corpus.published if one.topic in _PUBLISHED],
        },
    )


PAGE = Page(_render, Nav("Network", "network.html", 12))
