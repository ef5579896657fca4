"""What a figure is of, in plain text: its statistic, what was measured, and how it was set up."""

from __future__ import annotations

from collections.abc import Iterator

from harness.measure.record import Facts
from harness.site.data.record_summary import SeriesSummary

STATISTICS = {
    "p50": "median", "mean": "mean", "min": "smallest", "max": "largest", "sum": "sum",
    "count": "number", "stddev": "standard deviation",
}  # fmt: skip
_COUNTED = ("sum", "count")
_METRICS = {
    "host-change": "memory the host gives up",
    "vmm-pss": "memory of the VMM alone",
    "resumed": "time until the guest runs",
    "first-reply": "time until the first reply",
    "first-exec": "time until a command has run",
    "first-program": "time until a program has run",
    "create-headers": "time until the API responds",
    "rtt": "round trip",
    "policy-update": "time until the new addresses apply",
    "rule-add": "time to add a sandbox's rules",
    "denied-leaks": "denied packets that arrived",
    "leaked-packets": "packets leaked after a change",
    "endpoint": "operations that work",
    "method": "methods that work",
}
_REPLIED = "guests that replied"
_SETUPS = {
    "substrate": {"qemu": "QEMU", "vm": "QEMU with firmware", "noop": "the harness alone"},
    "sharing": {
        "private": "memory copied for each",
        "mapped": "all mapping one file",
        "merged": "equal pages merged",
        "forked": "forked from one VMM",
        "started": "VMMs forked before they have a VM",
    },
    "tier": {
        "full": "booted",
        "durable-pool": "restored from disk",
        "durable-prewarm-pool": "kept in memory",
        "prewarm-pool": "kept in memory only",
    },
    "mechanism": {},
    "transport": {"netlink": "via netlink", "nft program": "via the nft program"},
    "path": {
        "policy": "bridge with policy",
        "bridge": "bridge without policy",
        "microvm": "between microVMs",
    },
}


def statistic(name: str) -> str:
    """The name of a statistic in a sentence: median, mean, p95."""
    return STATISTICS.get(name, name)


def figure(series: SeriesSummary, by: str, each: bool = False) -> str:
    """What a figure of a series is: "median round trip (bridge with policy)"."""
    metric = _REPLIED if (series.metric, by) == ("reply", "count") else _metric(series)
    joined = f"{statistic(by)} {'of ' if by in _COUNTED else ''}{metric}"
    how = setup(series.dimensions)
    return f"{joined}{' per sandbox' if each else ''}{f' ({how})' if how else ''}"


def _metric(series: SeriesSummary) -> str:
    name = _METRICS.get(series.metric, series.metric)
    tool, own = series.dimensions.get("tool"), series.dimensions.get("statistic")
    if tool is not None and own is not None:
        # The tool reports a statistic of each pass; the series has one value per pass.
        return f"of {tool}'s {statistic(str(own))} {name}"
    return name


def setup(dimensions: Facts) -> str:
    """How the sandboxes of a series were made, shared or connected."""
    return ", ".join(_parts(dimensions))


def _parts(dimensions: Facts) -> Iterator[str]:
    for name, known in _SETUPS.items():
        value = dimensions.get(name)
        if value is not None:
            yield known.get(str(value), str(value))
