"""Finds the families of charts, and a chart by its name."""

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

_NEAR = 3


def families() -> Sequence[Family]:
    """Those of few charts first."""
    modules = [
        importlib.import_module(f"{_families.__name__}.{found.name}")
        for found in pkgutil.iter_modules(_families.__path__)
    ]
    return sorted((module.FAMILY for module in modules), key=lambda one: (one.many, one.prefix))


def of_machine(corpus: Corpus, machine: str) -> Corpus:
    """The records of one machine only, named by its id or the beginning of it."""
    fitting = [id for id in corpus.machines if id.startswith(machine)]
    if machine in fitting:
        fitting = [machine]
    if len(fitting) != 1:
        raise UsageError(
            f"{machine!r} names {'no machine' if not fitting else 'several machines'}",
            hint=f"one of: {', '.join(corpus.machines) or 'none was measured'}",
        )
    return dataclasses.replace(corpus, entries=corpus.machines[fitting[0]])


def named(corpus: Corpus, name: str) -> Plot:
    """The chart of that name. UsageError shows the names that are near."""
    seen: list[str] = []
    for family in families():
        if name.startswith(family.prefix):
            for plot in family.plots(corpus):
                if plot.name == name:
                    return plot
                seen.append(plot.name)
    near = difflib.get_close_matches(name, seen, _NEAR, 0.5)
    raise UsageError(
        f"no chart is called {name!r}, or this machine has no record for it",
        hint=f"perhaps {' or '.join(near)}" if near else "coppice chart --list",
    )


def listed(corpus: Corpus, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names with titles; of a family of many its number, unless `prefix` asks for its names."""
    for family in families():
        wanted = prefix and family.prefix.startswith(prefix.partition("/")[0])
        if family.many and not wanted:
            plots = list(family.plots(corpus))
            if plots and not prefix:
                words = f"{family.help}: {len(plots)}, named by --list {family.prefix}"
                yield f"{family.prefix}...", words

            continue
        for plot in family.plots(corpus):
            if plot.name.startswith(prefix):
                yield plot.name, plot.title
