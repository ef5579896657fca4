"""Renders an essay: filled in as a template first, then Markdown to HTML."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence

import jinja2
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

from harness.site.data.addresses import slug


def render(text: str, environment: jinja2.Environment, **context: object) -> Markup:
    """The HTML of one essay: headings have anchors, wide tables scroll."""
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
    """Give every heading an id made from its text."""
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
