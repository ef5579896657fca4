"""Every link and anchor of the built site, found by another reader than the build's own."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.site.conftest import Made


class Reader(HTMLParser):
    """The ids and the addresses of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "src", "xlink:href"):
                self.links.append(value or "")


@pytest.mark.parametrize("site", ["made", "repeated"])
def test_links_and_anchors_resolve_and_no_id_stands_twice(
    site: str, request: pytest.FixtureRequest
) -> None:
    made: Made = request.getfixturevalue(site)
    pages = {path.resolve(): Reader(path) for path in made.pages()}
    checked = 0
    for path, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), path
        for address in page.links:
            parts = urlsplit(address)
            if parts.scheme == "https":
                continue
            assert not parts.scheme and not parts.netloc, (path, address)
            # Only the page for missing addresses has links from the root.
            start = made.out if path.name == "404.html" else path.parent
            named = unquote(parts.path)
            assert named.startswith("/") == (path.name == "404.html" and bool(named)), address
            target = (start / named.lstrip("/")).resolve() if named else path
            assert target.is_file() and target.is_relative_to(made.out.resolve()), (path, address)
            if parts.fragment:
                assert unquote(parts.fragment) in pages[target].ids, (path, address)
            checked += 1
    assert checked > 1000


def test_the_reader_would_miss_nothing(tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    page.write_text(
        "<p id=a><a href='b.html#c&amp;d'>x</a><svg><a xlink:href=e></a></svg><img src=f>",
        encoding="utf-8",
    )
    found = Reader(page)
    assert found.ids == ["a"] and found.links == ["b.html#c&d", "e", "f"]
