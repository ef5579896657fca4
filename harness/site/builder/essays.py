"""Essays and appendices: Markdown in site/essays/, with figures through the filter of all pages.

A file begins with a few lines of `name: value` between two lines of three hyphens: title,
description, kind (essay or appendix) and order. The text is first filled in as a template, in which
`ours`, `said` and `verdict` stand for a series, a published figure and a claim; what they give is
escaped before Markdown sees it. A number with a unit that is typed fails the build, but in a block
quote whose last line links to its source.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

from harness import paths
from harness.claims.claims import Claim
from harness.claims.published import Figure
from harness.measure.record import Scalar
from harness.site.builder.check import SiteError
from harness.site.data import evidence
from harness.site.data.corpus import Corpus, Entry
from harness.site.data.evidence import Judged
from harness.site.data.record_summary import Line, fits, slug

DIRECTORY = paths.ESSAYS
KINDS = ("essay", "appendix")
_HEAD = re.compile(r"---\n(.*?)\n---\n", re.S)


@dataclass(frozen=True)
class Essay:
    """One file: `name` is its address, `text` its Markdown."""

    name: str
    title: str
    description: str
    kind: str
    order: int
    text: str

    @property
    def path(self) -> str:
        return f"{'essays' if self.kind == 'essay' else 'appendix'}/{self.name}.html"


@functools.cache
def found(directory: Path = DIRECTORY) -> Sequence[Essay]:
    """Every essay, then every appendix, in their order. Raises SiteError for one without a head."""
    made = []
    for path in sorted(directory.glob("*.md")):
        text = path.read_text()
        head = _HEAD.match(text)
        lines = [line.split(":", 1) for line in (head[1].splitlines() if head else ())]
        facts = {name.strip(): value.strip() for name, value in lines}
        if not head or set(facts) != {"title", "description", "kind", "order"}:
            raise SiteError(f"{path.name} must begin with title, description, kind and order")
        if facts["kind"] not in KINDS:
            raise SiteError(f"{path.name}: kind is one of {', '.join(KINDS)}")
        made.append(
            Essay(
                path.stem,
                facts["title"],
                facts["description"],
                facts["kind"],
                int(facts["order"]),
                text[head.end() :],
            )
        )
    return sorted(made, key=lambda one: (KINDS.index(one.kind), one.order))


class Lookup:
    """What an essay may ask for, by name."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    def series(self, rig: str, metric: str, **dimensions: Scalar) -> tuple[Entry, Line] | None:
        """The newest series of the full profile on this machine, else the newest of any."""
        newest = self._corpus.newest(rig, self._corpus.machine, metric)
        fitting = [one for one in newest if fits(one[2].dimensions, dimensions)]
        if not fitting:
            return None
        full = [one for one in fitting if one[1].brief.profile == "full"]
        # Of several in one record the first.
        _, entry, line = max(full or fitting, key=lambda one: (one[0], -one[2].number))
        return entry, line

    def proof(self, rig: str, metric: str, **dimensions: Scalar) -> tuple[Entry, Line] | None:
        """The newest series of any machine that proves function only."""
        for (name, _), entries in self._corpus.proving.items():
            for entry in reversed(entries) if name == rig else ():
                found = entry.brief.find(metric, dimensions)
                if found and found.n:
                    return entry, found
        return None

    def figure(self, id: str) -> Figure:
        """A published figure; an unknown name ends the build."""
        found = self._corpus.figure(id)
        if found is None:
            raise KeyError(f"no published figure is called {id!r}")
        return found

    def claim(self, id: str) -> tuple[Claim, Judged | None]:
        """A claim and what decides it here; an unknown name ends the build."""
        for one in self._corpus.claims:
            if one.id == id:
                several = evidence.judged(self._corpus, one, self._corpus.machine)
                return one, evidence.deciding(several)
        raise KeyError(f"no claim is called {id!r}")


def render(text: str, environment: jinja2.Environment, **context: object) -> Markup:
    """The HTML of one essay: headings have anchors, tables scroll within themselves."""
    filled = _template(environment, text).render(**context)
    return Markup(_markdown().render(filled))


@functools.lru_cache(maxsize=64)
def _template(environment: jinja2.Environment, text: str) -> jinja2.Template:
    return environment.from_string(text)


@functools.cache
def _markdown() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": True}).enable("table")
    made.add_render_rule("table_open", _table_open)
    made.add_render_rule("table_close", _table_close)
    made.core.ruler.push("anchors", _anchors)
    return made


def _anchors(state: object) -> None:
    """Give every heading an id made of its words."""
    tokens: list[Token] = state.tokens  # type: ignore[attr-defined]
    for opened, inside in itertools.pairwise(tokens):
        if opened.type == "heading_open":
            words = re.sub(r"<[^>]+>", "", inside.content)
            opened.attrSet("id", slug(words))
        elif opened.type == "th_open":
            opened.attrSet("scope", "col")


def _table_open(self: RendererHTML, tokens: Sequence[Token], *_: object) -> str:
    return '<div class="scroll" role="region" aria-label="Table" tabindex="0">\n<table>\n'


def _table_close(self: RendererHTML, tokens: Sequence[Token], *_: object) -> str:
    return "</table>\n</div>\n"
