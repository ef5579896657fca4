"""What ends a build: typed figures, links that lead nowhere, pages without a declaration."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from harness.errors import SiteError
from harness.site.builder import check
from harness.site.builder.build import build
from tests.site.conftest import Made


@pytest.mark.parametrize(
    "text",
    [
        "in 17 ms",
        "9.1 GiB",
        "1&nbsp;000 ms",
        "~60ms",
        "12 %",
        "4 µs",
        "2.5 seconds",
        "3 Gbit/s",
        "{{ '60 ms' }}",
        "100–200 ms",
    ],
)
def test_a_typed_figure_is_found(tmp_path: Path, text: str) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"line\n{text}\n", encoding="utf-8")
    with pytest.raises(SiteError, match=r"page\.md:2"):
        check.check_sources([path], [])


@pytest.mark.parametrize(
    "text",
    [
        "p95",
        "IPv6",
        "{% if n > 20 %}x{% endif %}",
        "{{ 20 }} s",
        "#a1410d",
        "section 3",
        "E2B",
        'width="22" height="16"',
        "bench-1",
    ],
)
def test_other_numbers_are_no_figures(text: str) -> None:
    assert check.typed_figures(text) == []


def test_a_typed_figure_in_a_page_module_is_found(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("x = 20 * s\ny = 'only 20 ms'\n", encoding="utf-8")
    with pytest.raises(SiteError, match=r"module\.py:2: '20 ms'"):
        check.check_sources([], [path])


def wrong_links(pages: dict[str, bytes]) -> list[str]:
    names = {path: check.names(content.decode()) for path, content in pages.items()}
    links = {
        f"{target}#{anchor}" if anchor else target: path
        for path, one in names.items()
        for _, target, anchor in check.targets(path, one)
    }
    twice = [wrong for path, one in names.items() for wrong in check.twice(path, one)]
    ids = {path: one.ids for path, one in names.items()}
    return [*twice, *check.dangling(links, pages, ids)]


def test_a_broken_link_or_anchor_fails_the_build() -> None:
    good = {
        "a.html": b'<a id="x" href="b/c.html#y">',
        "b/c.html": b'<p id="y"><a href="../a.html">',
    }
    check.refuse(wrong_links(good))
    for bad in (b'<a href="../none.html">', b'<a href="../a.html#none">', b'<i id="y"><i id="y">'):
        with pytest.raises(SiteError, match=r"b/c\.html"):
            check.refuse(wrong_links({**good, "b/c.html": bad}))


def test_a_page_module_without_a_declaration_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.site import pages

    empty = types.ModuleType("harness.site.pages.method")
    empty.__file__ = "method.py"
    monkeypatch.setitem(sys.modules, "harness.site.pages.method", empty)
    assert pages.__path__
    with pytest.raises(Exception, match="has no PAGE"):
        pages.discover()


def test_a_page_is_a_file_added(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.site import pages

    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "added.py").write_text(
        "from harness.site.page import Asset, Nav, Page\n"
        "def render(corpus):\n"
        "    yield Asset('added.html', b'<p>' + str(len(corpus.entries)).encode())\n"
        "PAGE = Page(render, Nav('Added', 'added.html', 99))\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(pages, "__path__", [*pages.__path__, str(tmp_path / "extra")])
    build(made.results, tmp_path / "out")
    assert (tmp_path / "out" / "added.html").read_text(encoding="utf-8") == "<p>13"
    assert '<a href="../../added.html">Added</a>' in next(
        (tmp_path / "out").glob("runs/*/*.html")
    ).read_text(encoding="utf-8")
    sys.modules.pop("harness.site.pages.added", None)
