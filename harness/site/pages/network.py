"""The network page: round trips, throughput, and how policies change, each beside what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.site import network
from harness.site.chart_scaling import Curve, Reference, scaling_chart
from harness.site.chart_strip import Line, Strip, strip_chart
from harness.site.corpus import Corpus
from harness.site.network import Measured
from harness.site.page import Asset, Document, Nav, Page

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


def _rtt_chart(corpus: Corpus, rtt: Measured) -> object:
    strips = []
    status = rtt.entry.record.validity.status
    note = "" if status == "valid" else status
    for path in network.PATHS:
        found = rtt.find("rtt", path=path, cores=1, tool="exchange")
        missing = "" if found else "not measured on this host"
        strips.append(
            Strip(_LABELS[path], found[1] if found else None, note or missing, warn=bool(note))
        )
    figure = corpus.figure(_RTT)
    line = None
    if figure:
        line = Line(figure, f"Coppice: {figure.as_written}", "pf on FreeBSD, p50")
    return strip_chart("rtt", "Round trip, both ends on one core", strips, line)


def _reference(corpus: Corpus, id: str, n: int) -> Sequence[Reference]:
    figure = corpus.figure(id)
    return [Reference(figure, f"{figure.publisher} {figure.as_written}", n)] if figure else []


def _update_chart(corpus: Corpus, update: Measured) -> object:
    curves = [
        network.curve(update, label, "policy-update", transport=transport, others=0)
        for transport, label in _TRANSPORTS.items()
    ]
    marks = [*_reference(corpus, _REPLACE, 1000), *_reference(corpus, _SINGLE, 1)]
    across = "addresses replaced by others"
    return scaling_chart("update", "Replacing a policy's addresses", "s", across, curves, marks)


def _churn_chart(corpus: Corpus, churn: Measured) -> object:
    curves: list[Curve] = [
        network.curve(churn, "one added", "rule-add"),
        network.curve(churn, "one removed", "rule-remove"),
    ]
    marks = [one for id, n in _ANCHORS.items() for one in _reference(corpus, id, n)]
    return scaling_chart(
        "churn", "Rules of one sandbox beside N others", "s", "sandboxes there", curves, marks
    )


def _render(corpus: Corpus) -> Iterator[Document | Asset]:
    rtt = network.newest(corpus, "net-rtt")
    throughput = network.newest(corpus, "net-throughput")
    update = network.newest(corpus, "policy-update")
    churn = network.newest(corpus, "policy-churn")
    enforcement = network.newest(corpus, "policy-enforcement")
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
            "rtt_chart": _rtt_chart(corpus, rtt) if rtt else None,
            "costs": network.costs(rtt) if rtt else (),
            "throughput": throughput,
            "share_of_loopback": network.share_of_loopback,
            "update": update,
            "update_chart": _update_chart(corpus, update) if update else None,
            "churn": churn,
            "churn_chart": _churn_chart(corpus, churn) if churn else None,
            "enforcement": enforcement,
            "published": [one for one in corpus.published if one.topic in _PUBLISHED],
        },
    )


PAGE = Page(_render, Nav("Network", "network.html", 12))
