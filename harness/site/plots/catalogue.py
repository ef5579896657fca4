"""Finds families of charts, and charts by name."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from collections.abc import Iterator, Sequence

from harness.errors import UsageError
from harness.site.data.corpus import Corpus
from harness.site.plots import families as _families
from harness.site.plots.plot import Family, Plot

_SUGGESTIONS = 3


def families() -> Sequence[Family]:
    """All families, those with many charts last."""
    modules = [
        importlib.import_module(f"{_families.__name__}.{found.name}")
        for found in pkgutil.iter_modules(_families.__path__)
    ]
    return sorted(
        (module.FAMILY for module in modules), key=lambda family: (family.many, family.prefix)
    )


def of_machine(corpus: Corpus, machine: str) -> Corpus:
    """The records of one machine, named by its id or the beginning of its id."""
    matching = [id for id in corpus.machines if id.startswith(machine)]
    if machine in matching:
        matching = [machine]
    if len(matching) != 1:
        raise UsageError(
            f"{machine!r} names {'no machine' if not matching else 'several machines'}",
            hint=f"machines: {', '.join(corpus.machines) or 'none'}",
        )
    return dataclasses.replace(corpus, entries=corpus.machines[matching[0]])


def named(corpus: Corpus, name: str) -> Plot:
    """The chart of that name. The UsageError for an unknown name suggests similar ones."""
    names: list[str] = []
    for family in families():
        if name.startswith(family.prefix):
            for plot in family.plots(corpus):
                if plot.name == name:
                    return plot
                names.append(plot.name)
    similar = difflib.get_close_matches(name, names, _SUGGESTIONS, 0.5)
    raise UsageError(
        f"no chart is called {name!r}, or this machine has no record for it",
        hint=f"did you mean {' or '.join(similar)}?" if similar else "coppice chart --list",
    )


def listed(corpus: Corpus, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and titles; for families of many charts their number, unless `prefix` selects them."""
    for family in families():
        wanted = prefix and family.prefix.startswith(prefix.partition("/")[0])
        if family.many and not wanted:
            plots = list(family.plots(corpus))
            if plots and not prefix:
                yield (
                    f"{family.prefix}...",
                    f"{family.help}: {len(plots)}, listed by --list {family.prefix}",
                )
            continue
        for plot in family.plots(corpus):
            if plot.name.startswith(prefix):
                yield plot.name, plot.title
