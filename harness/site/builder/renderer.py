"""Renders templates. Figures come only from functions that link relative to the current page."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from jinja2.bccache import Bucket
from markupsafe import Markup

from harness.claims import published, systems
from harness.claims.verdict import Verdict
from harness.measure import quantity, statistics
from harness.measure.quantity import thousands
from harness.measure.record import Scalar, Series
from harness.paths import cache_directory
from harness.site.builder import essay_html
from harness.site.data import (
    corpus,
    described,
    figures,
    how_many,
    kvm_figures,
    machines,
    publishers,
    sentences,
    services,
)
from harness.site.data.addresses import published_page, slug
from harness.site.data.essays import Lookup
from harness.site.page import Document, Page


class _Compiled(jinja2.FileSystemBytecodeCache):
    """Compiled templates; does without a cache if the directory cannot be written."""

    def get_cache_key(self, name: str, filename: str | None = None) -> str:
        """By name alone: the cache checks the source, and other checkouts must not add copies."""
        return super().get_cache_key(name)

    def dump_bytecode(self, bucket: Bucket) -> None:
        with contextlib.suppress(OSError):
            super().dump_bytecode(bucket)


def _compiled() -> _Compiled | None:
    """The cache depends on this file too: its Jinja settings change what a template compiles to."""
    ways = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    directory = cache_directory() / "site" / f"templates-{jinja2.__version__}-{ways}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return _Compiled(str(directory))


@functools.lru_cache(maxsize=4)
def environment(sources: Path) -> jinja2.Environment:
    """Jinja over site/templates, with autoescaping, strict names and the figure functions."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(sources / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        bytecode_cache=_compiled(),
    )
    made.filters.update(
        fact=figures.fact,
        titled=machines.title,
        system=machines.system,
        accelerator=machines.accelerator,
        guests=machines.guests,
        within=publishers.within,
        system_title=systems.title,
        service_page=services.page,
        service_title=services.title,
    )
    made.globals.update(
        anchor=corpus.anchor,
        bounds_of=_bounds,
        slug=slug,
        published_page=published_page,
        bytes_text=figures.bytes_text,
        thousands=thousands,
        smallest_n=statistics.smallest_n,
        confidence=f"{statistics.CONFIDENCE:.0%}".replace("%", " %"),
        clocks=published.clocks(),
        labels=published.LABELS,
        conditions=figures.conditions,
        withheld=figures.withheld,
        proved=figures.proved,
        how_many=how_many.text,
        described=described.figure,
        setup=described.setup,
        statistic_name=described.statistic,
        sizes=figures.size,
        place=figures.place,
        round_trips=services.round_trips,
    )
    return made


_LINKED = (
    figures.figure,
    figures.per,
    figures.count,
    figures.derived,
    figures.clock_figure,
    kvm_figures.kvm_facts,
    figures.took,
    figures.quoted,
    figures.mark,
    figures.disturbed,
    sentences.inline,
    sentences.inline_of,
    sentences.aside,
)
"""The functions by which templates show figures; each links relative to the page being rendered."""


def _bounds(series: Series, statistic: str) -> str:
    """The interval of a statistic with its unit, or an empty string."""
    estimate = figures.get(series, statistic)
    bounds = estimate and quantity.show_interval(estimate, series.unit)
    return (
        f"{bounds} {quantity.scale(estimate.value, series.unit)[1]}" if estimate and bounds else ""
    )


class EssayFunctions:
    """The functions that essays use to show series, figures and claims, with links."""

    def __init__(self, look: Lookup, link: figures.Link) -> None:
        self._look, self._link = look, link

    def published(self, id: str) -> Markup:
        """A published figure as its source writes it, marked as such."""
        return Markup('<span class="theirs">{}</span>').format(
            figures.quoted(self._look.figure(id), self._link)
        )

    def measured(
        self, rig: str, metric: str, statistic: str = "p50", **dimensions: Scalar
    ) -> Markup:
        """A figure measured here, else a function-only result, else "not measured"."""
        found = self._look.series(rig, metric, **dimensions)
        found = found or self._look.proof(rig, metric, **dimensions)
        if not found:
            return Markup('<span class="absent">not measured on this host</span>')
        return figures.figure(*found, statistic, self._link)

    def beside(self, id: str, statistic: str = "p50", **dimensions: Scalar) -> Markup:
        """Our figure that a published one stands beside; `dimensions` choose one of several."""
        at = self._look.placement(id)
        return self.measured(at.rig, at.metric, statistic, **{**at.where, **dimensions})

    def verdict(self, id: str) -> Markup:
        """A claim's verdict here, linked to its page."""
        claim, judged = self._look.claim(id)
        words = str(judged.finding.verdict if judged else Verdict.NOT_MEASURED)
        return Markup('<a href="{}">{}</a>: <span class="badge {}">{}</span>').format(
            self._link(f"claims/{claim.id}.html"), claim.title, slug(words), words
        )


@dataclass(frozen=True)
class _Around:
    """The frame of every page in a directory: head links, header and footer."""

    head: Markup
    above: Markup
    below: Markup


class Renderer:
    """Turns documents into bytes. There is one per process: templates are compiled once."""

    def __init__(
        self,
        sources: Path,
        pages: Sequence[Page],
        address: str,
        repository: str = "",
        preview: bool = False,
    ) -> None:
        self.environment = environment(sources)
        navs = [one.nav for one in pages if one.nav]
        self.environment.globals.update(
            navigation=[one for one in navs if not one.foot],
            foot=[one for one in navs if one.foot],
            address=address,
            repository=repository,
            preview=preview,
        )
        self._marked = {one.path for one in navs}
        self._around: dict[tuple[str, str], _Around] = {}

    def _around_of(self, one: Document) -> _Around:
        """The frame; pages of a directory share it, except those that the navigation highlights."""
        key = (
            posixpath.dirname(one.path),
            one.path if one.path in self._marked or one.rooted else "",
        )
        if key not in self._around:
            template = self.environment.get_template("around.html")
            made: Any = template.make_module({"document": one, "link": one.link})
            self._around[key] = _Around(made.head(), made.above(), made.below())
        return self._around[key]

    def __call__(self, one: Document) -> bytes:
        template = self.environment.get_template(one.template)
        context = {**one.context, "document": one, "link": one.link}
        # Not with Jinja's pass_context, which copies the context for every call within a loop.
        context.update({made.__name__: partial(made, link=one.link) for made in _LINKED})
        context["around"] = self._around_of(one)
        look = context.get("look")
        if isinstance(look, Lookup):
            words = EssayFunctions(look, one.link)
            whole = {
                **context,
                "published": words.published,
                "measured": words.measured,
                "beside": words.beside,
                "verdict": words.verdict,
            }
            context["prose"] = lambda essay, link: essay_html.render(
                essay.text, self.environment, **whole
            )
        return template.render(context).encode()
