"""Checks that end a build: no typed figure in what people write, no link that leads nowhere."""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
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


def typed_figures(text: str) -> list[tuple[int, str]]:
    """Line and text of every number with a unit in `text`."""
    # The percent sign of a template's own delimiters is no unit.
    text = text.replace("{%", "{ ").replace("%}", " }")
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


class _Names(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("href", "src") and value:
                self.links.append(value)


def check_links(files: Mapping[str, bytes]) -> None:
    """Raise unless every link between `files` (path: content) finds its file and its anchor."""
    names: dict[str, _Names] = {}
    for path, content in files.items():
        if path.endswith(".html"):
            names[path] = _Names()
            names[path].feed(content.decode())
    broken = []
    for path, page in names.items():
        twice = sorted({one for one in page.ids if page.ids.count(one) > 1})
        broken += [f"{path}: id {one!r} twice" for one in twice]
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (
                posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(parts.path)))
                if parts.path
                else path
            )
            anchor = unquote(parts.fragment)
            if target not in files or (anchor and anchor not in names[target].ids):
                broken.append(f"{path}: {link}")
    if broken:
        raise SiteError("links that lead nowhere:" + "".join(f"\n  {one}" for one in broken))
