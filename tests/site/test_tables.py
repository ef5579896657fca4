"""The tables of pages: their CSV files, their labels for cards, and the script that sorts them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import SiteError
from harness.site.builder import tables
from tests.site import browser as driving
from tests.site.browser import Browser
from tests.site.conftest import Made

CHROMIUM = pytest.mark.skipif(
    driving.program() is None, reason="Chromium is not installed: apt-get install chromium"
)

_PAGE = b"""<div class="scroll" role="region" aria-label="Starts" tabindex="0">
<table class="cards">
<thead>
<tr><th rowspan="2">tier</th><th colspan="2">alone</th></tr>
<tr><th>median</th><th>verdict</th></tr>
</thead>
<tbody>
<tr><th>full<small>qemu</small></th>
<td><data value="0.0031"><a href="x">3.1 ms</a></data> <span>3.0\xe2\x80\x933.2</span></td>
<td>reached here</td></tr>
<tr><th>=1+1</th><td colspan="2">not measured &amp; absent</td></tr>
</tbody>
</table>
</div>
"""


def test_a_table_has_a_file_with_text_and_plain_numbers() -> None:
    page, files = tables.finish("a/b.html", _PAGE)
    ((path, content),) = files.items()
    assert path == "tables/a.b.starts.csv"
    assert list(csv.reader(io.StringIO(content.decode()))) == [
        ["tier", "alone median", "alone median (SI)", "alone verdict"],
        ["full qemu", "3.1 ms 3.0\u20133.2", "0.0031", "reached here"],
        # A spreadsheet must not take it for a formula.
        ["'=1+1", "not measured & absent", "", ""],
    ]
    assert b'<a href="../tables/a.b.starts.csv">CSV</a>' in page


def test_cells_of_cards_are_labelled() -> None:
    page, _ = tables.finish("b.html", _PAGE)
    assert page.count(b'data-label="alone median"') == 2
    assert b'data-label="tier"' not in page


def test_a_table_without_figures_has_no_numbers_beside() -> None:
    plain = '<table aria-label="x"><thead><tr><th>a</th></tr></thead><tr><td>b</td></tr></table>'
    _, files = tables.finish("c.html", plain.encode())
    assert files == {"tables/c.x.csv": b"a\nb\n"}


def test_two_tables_of_one_name_are_refused() -> None:
    with pytest.raises(SiteError, match="two tables that are called 'Starts'"):
        tables.finish("b.html", _PAGE + _PAGE)


def test_every_table_that_has_a_name_has_its_file(real: Path) -> None:
    seen = 0
    for path in sorted(real.glob("*.html")):
        text = re.sub(
            r"<details.*?</details>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL
        )
        for one in re.finditer(r"</table>(?:\s*</div>)?(.{0,120})", text, re.DOTALL):
            named = re.search(r'class="files csv"><a href="(tables/[^"]+)"', one[1])
            if named:
                assert (real / named[1]).stat().st_size > 10, path
                seen += 1
    assert seen > 30


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with driving.browser() as one:
        yield one


def figures(browser: Browser, table: str, column: int) -> list[float]:
    shown = browser.evaluate(
        f"JSON.stringify([...document.querySelector({table!r}).tBodies[0].rows]"
        f".filter(r => !r.hidden).map(r => r.cells[{column}].querySelector('data'))"
        ".map(d => d && Number(d.value)))"
    )
    return [one for one in json.loads(shown) if one is not None]


@CHROMIUM
def test_a_table_sorts_by_a_click(browser: Browser, real: Path) -> None:
    browser.view(1280)
    browser.open((real / "compare.html").as_uri())
    table = "main table"
    before = figures(browser, table, 1)
    browser.evaluate("document.querySelectorAll('main table .sort')[1].click()")
    after = figures(browser, table, 1)
    assert before != sorted(before) == after
    browser.evaluate("document.querySelectorAll('main table .sort')[1].click()")
    assert figures(browser, table, 1) == sorted(before, reverse=True)
    heads = "[...document.querySelector('main table').tHead.rows[0].cells]"
    assert browser.evaluate(f"{heads}.map(h => h.ariaSort).filter(Boolean)") == ["descending"]
    assert browser.complaints == []


@CHROMIUM
def test_a_long_table_filters_while_one_types(browser: Browser, real: Path) -> None:
    browser.open((real / "claims.html").as_uri())
    rows = "[...document.querySelectorAll('tr[id]')].filter(r => !r.hidden).map(r => r.id)"
    every = browser.evaluate(rows)
    browser.evaluate(
        "(() => {const i = document.querySelector('.filter input'); i.value = 'jail network';"
        "i.dispatchEvent(new Event('input'))})()"
    )
    left = browser.evaluate(rows)
    assert "coppice-jail-network" in left and "coppice-thousand" not in left
    assert len(left) < len(every)


@CHROMIUM
def test_a_command_has_a_button_that_copies_it(browser: Browser, made: Made) -> None:
    browser.open((made.out / "index.html").as_uri())
    browser.evaluate(
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async t => {"
        "window.copied = t}}});document.querySelector('.copy').click()"
    )
    command = browser.evaluate("document.querySelector('.repeat code').textContent")
    assert command.startswith("mise run") and browser.evaluate("window.copied") == command


@CHROMIUM
def test_script_of_anybody_else_does_not_run(browser: Browser, made: Made, tmp_path: Path) -> None:
    head = re.search(
        r"<meta http-equiv=[^>]*>", (made.out / "index.html").read_text(encoding="utf-8")
    )
    assert head
    page = tmp_path / "inline.html"
    page.write_text(
        f"{head[0]}<script>window.ran = 1</script><p onclick='window.ran = 1'>x</p>",
        encoding="utf-8",
    )
    browser.open(page.as_uri())
    browser.evaluate("document.querySelector('p').click()")
    assert browser.evaluate("window.ran === undefined") is True
    browser.complaints.clear()
