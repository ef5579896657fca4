"""Addresses that do not exist, the picture beside a link, and the link to the source."""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
from pathlib import Path

from harness.site.builder import preview, serve
from harness.site.builder.build import Options, build
from harness.site.data import corpus
from tests.site.conftest import Made


def test_a_missing_page_leads_back_from_any_depth(made: Made) -> None:
    with serve.server(made.out, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            root = f"http://127.0.0.1:{server.server_port}"
            try:
                urllib.request.urlopen(f"{root}/no/such/page.html")
                raise AssertionError("it was found")
            except urllib.error.HTTPError as answer:
                assert answer.code == 404
                text = answer.read().decode()
            assert "There is no such page" in text
            links = [one for one in re.findall(r'(?:href|src)="([^"]+)"', text) if one[0] != "#"]
            assert len(links) > 10
            for link in links:
                assert urllib.request.urlopen(f"{root}{link}").status == 200, link
        finally:
            server.shutdown()
            thread.join()


def test_a_site_below_a_path_says_so_in_its_missing_page(made: Made, tmp_path: Path) -> None:
    how = Options(
        address="https://example.org/sandboxes/",
        repository="https://example.org/source",
        preview=True,
    )
    out = tmp_path / "out"
    build(made.results, out, options=how)
    assert 'href="/sandboxes/claims.html"' in (out / "404.html").read_text(encoding="utf-8")
    assert "404.html" not in (out / "sitemap.xml").read_text(encoding="utf-8")
    front = (out / "index.html").read_text(encoding="utf-8")
    assert '<a href="https://example.org/source">Source code</a>' in front
    picture = '<meta property="og:image" content="https://example.org/sandboxes/preview.png">'
    assert picture in front
    assert (out / "preview.png").read_bytes() == content(made)


def content(made: Made) -> bytes:
    """The picture, drawn anew."""
    own = Path(corpus.__file__).parents[3] / "results" / "published"
    (asset,) = preview.group(corpus.load(made.results, own)).make()
    assert not hasattr(asset, "template")
    return bytes(asset.content)


def test_the_picture_has_the_size_that_readers_expect(made: Made) -> None:
    drawn = content(made)
    assert drawn[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(drawn[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (preview.WIDTH, preview.HEIGHT) == (1200, 630)


def test_a_site_without_a_known_source_has_no_link_to_it(made: Made) -> None:
    front = (made.out / "index.html").read_text(encoding="utf-8")
    assert "Source code" not in front and "og:image" not in front
