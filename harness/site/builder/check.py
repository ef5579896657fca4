"""Checks at the end of a build: no figures typed by hand, no dangling links."""

from __future__ import annotations

import ast
import functools
import html
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from harness.errors import SiteError

_FIGURE = re.compile(
    r"(?<![\w.#-])\d[\d.,\u202f\u00a0 ]*(?:&nbsp;|[ \u202f\u00a0-])?"
    r"(?:ns|[µμu]s|ms|s|sec|seconds?|milliseconds?|microseconds?|min|minutes?"
    r"|[KMGT]i?B|kB|bytes?|[kMG]?bit/s|%|×|percent)(?![\w-])"
)
# A quotation in an essay: a block quote whose last line links to its source.
_QUOTATION = re.compile(r"(?m)^(?:>.*\n)*> .*\]\(https://[^)]+\).*$")


def typed_figures(text: str) -> list[tuple[int, str]]:
    """Line and text of every number with a unit in `text`, except in quotations with a source."""
    # The percent sign in a template's delimiters is not a unit.
    text = text.replace("{%", "{ ").replace("%}", " }")
    text = _QUOTATION.sub(lambda quote: re.sub(r"\d", "n", quote.group()), text)
    return [
        (text.count("\n", 0, match.start()) + 1, match.group()) for match in _FIGURE.finditer(text)
    ]


def check_sources(templates: Iterable[Path], modules: Iterable[Path]) -> None:
    """Raise when a template, an essay or a page module's text holds a typed figure."""
    found = []
    for path in templates:
        found += [(path, *hit) for hit in typed_figures(path.read_text(encoding="utf-8"))]
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found += [(path, node.lineno, text) for _, text in typed_figures(node.value)]
    if found:
        lines = "".join(f"\n  {path.name}:{line}: {text!r}" for path, line, text in found)
        raise SiteError(
            f"figures are typed by hand where they must be computed:{lines}",
            hint="use figure(...) for a record's figure, or quoted(...) for one from "
            "results/published/",
        )


@dataclass(frozen=True)
class Names:
    """The ids of a page, in order, and the addresses that it links to."""

    ids: Sequence[str]
    links: Collection[str]


_ATTRIBUTE = re.compile(r'\s(id|href|src)="([^"]*)"')


def names(text: str) -> Names:
    """The ids and links of a page; templates write all attributes in double quotes."""
    ids: list[str] = []
    links: dict[str, None] = {}
    for kind, value in _ATTRIBUTE.findall(text):
        if kind == "id":
            ids.append(html.unescape(value))
        else:
            links[html.unescape(value)] = None
    return Names(ids, list(links))


def twice(path: str, page: Names) -> Sequence[str]:
    """An error message for each id that occurs more than once on a page."""
    if len(set(page.ids)) == len(page.ids):
        return ()
    seen: set[str] = set()
    double = {one for one in page.ids if one in seen or seen.add(one)}  # type: ignore[func-returns-value]
    return [f"{path}: id {one!r} twice" for one in sorted(double)]


@functools.lru_cache(maxsize=65536)
def _target(directory: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(directory, unquote(path)))


def targets(path: str, page: Names) -> Iterable[tuple[str, str, str]]:
    """Each internal link of a page: as written, the file, and the anchor.

    Links from the root are left out: only the page for missing addresses has them.
    """
    directory = posixpath.dirname(path)
    for link in page.links:
        if link.startswith("/"):
            continue
        if ":" not in link and "//" not in link and "?" not in link and "%" not in link:
            name, _, anchor = link.partition("#")
            yield link, _target(directory, name) if name else path, anchor
            continue
        parts = urlsplit(link)
        if not parts.scheme and not parts.netloc:
            target = _target(directory, parts.path) if parts.path else path
            yield link, target, unquote(parts.fragment)


def dangling(
    links: Mapping[str, str],
    files: Collection[str],
    ids: Mapping[str, Collection[str]],
    has: Callable[[str, str], bool] = lambda path, id: False,
) -> Sequence[str]:
    """The dangling ones of `links`, which maps a file or `file#anchor` to a page that links to it.

    `ids` has the ids of pages; `has` answers for pages that are not in it.
    """
    wrong = []
    for link, page in links.items():
        target, _, anchor = link.partition("#")
        if target not in files or not (
            not anchor or anchor in ids.get(target, ()) or has(target, anchor)
        ):
            wrong.append(f"{page}: {link}")
    return wrong


def refuse(wrong: Sequence[str]) -> None:
    """Raise SiteError if there are any errors."""
    if wrong:
        raise SiteError("dangling links:" + "".join(f"\n  {one}" for one in wrong[:50]))
