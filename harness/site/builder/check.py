"""Checks that end a build: no typed figure in what people write, no link that leads nowhere."""

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

from harness.errors import CoppiceError


class SiteError(CoppiceError):
    """The site cannot be built as it stands; nothing was replaced."""

    exit_code = 65


_FIGURE = re.compile(
    r"(?<![\w.#-])\d[\d.,\u202f\u00a0 ]*(?:&nbsp;|[ \u202f\u00a0-])?"
    r"(?:ns|[µμu]s|ms|s|sec|seconds?|milliseconds?|microseconds?|min|minutes?"
    r"|[KMGT]i?B|kB|bytes?|[kMG]?bit/s|%|×|percent)(?![\w-])"
)
# A quotation in an essay: lines of a block quote whose last one names its source by a link.
_QUOTATION = re.compile(r"(?m)^(?:>.*\n)*> .*\]\(https://[^)]+\).*$")


def typed_figures(text: str) -> list[tuple[int, str]]:
    """Line and text of every number with a unit in `text`, but for quotations of a named source."""
    # The percent sign of a template's own delimiters is no unit.
    text = text.replace("{%", "{ ").replace("%}", " }")
    text = _QUOTATION.sub(lambda quote: re.sub(r"\d", "n", quote.group()), text)
    return [
        (text.count("\n", 0, match.start()) + 1, match.group()) for match in _FIGURE.finditer(text)
    ]


def check_sources(templates: Iterable[Path], modules: Iterable[Path]) -> None:
    """Raise when a template, an essay or a page module's text holds a typed figure."""
    found = []
    for path in templates:
        found += [(path, *hit) for hit in typed_figures(path.read_text())]
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found += [(path, node.lineno, text) for _, text in typed_figures(node.value)]
    if found:
        lines = "".join(f"\n  {path.name}:{line}: {text!r}" for path, line, text in found)
        raise SiteError(
            f"a figure is typed where it must be computed:{lines}",
            hint="take it from a record with figure(...), or from results/published/ with "
            "quoted(...)",
        )


@dataclass(frozen=True)
class Names:
    """The ids of one page in their order, and the addresses that it links to."""

    ids: Sequence[str]
    links: Collection[str]


_ATTRIBUTE = re.compile(r'\s(id|href|src)="([^"]*)"')


def names(text: str) -> Names:
    """What a page of ours names and links to; all our attributes stand in double quotes."""
    ids: list[str] = []
    links: dict[str, None] = {}
    for kind, value in _ATTRIBUTE.findall(text):
        if kind == "id":
            ids.append(html.unescape(value))
        else:
            links[html.unescape(value)] = None
    return Names(ids, list(links))


def twice(path: str, page: Names) -> Sequence[str]:
    """What to say of ids that stand more than once on a page."""
    if len(set(page.ids)) == len(page.ids):
        return ()
    seen: set[str] = set()
    double = {one for one in page.ids if one in seen or seen.add(one)}  # type: ignore[func-returns-value]
    return [f"{path}: id {one!r} twice" for one in sorted(double)]


@functools.lru_cache(maxsize=65536)
def _target(directory: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(directory, unquote(path)))


def targets(path: str, page: Names) -> Iterable[tuple[str, str, str]]:
    """Each internal link of a page: as it is written, the file and the anchor that it means."""
    directory = posixpath.dirname(path)
    for link in page.links:
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
    """What leads nowhere of `links`: a file or `file#anchor`, and a page that links to it.

    `ids` are those of pages; `has` knows ids of pages that are not among them.
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
    """Raise SiteError where there is something wrong."""
    if wrong:
        raise SiteError("links that lead nowhere:" + "".join(f"\n  {one}" for one in wrong[:50]))
