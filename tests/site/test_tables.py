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
<td><data value="0.0031" data-unit="s"><a href="x">3.1 ms</a></data>
<span class="interval">3.0\xe2\x80\x933.2</span></td>
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
        ["tier", "alone median", "alone median (SI)", "alone median (unit)", "alone verdict"],
        ["full; qemu", "3.1 ms; 3.0\u20133.2", "0.0031", "s", "reached here"],
        # A spreadsheet must not take it for a formula.
        ["'=1+1", "not measured & absent", "", "", ""],
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


def rows_of(body: str) -> list[list[str]]:
    table = f'<table aria-label="x"><thead><tr><th>a</th></tr></thead><tbody>{body}</tbody></table>'
    ((_, content),) = tables.finish("c.html", table.encode())[1].items()
    return list(csv.reader(io.StringIO(content.decode())))


def test_both_ends_of_a_range_are_in_the_file() -> None:
    low = '<s><data value="1.0" data-unit="s" data-published><a href="x">1 s</a></data></s>'
    high = '<data value="2.0" data-unit="s" data-published>2 s</data>'
    written = '<data value="3.0" data-unit="s" data-published data-upper="4.0">3 to 4 s</data>'
    cells = (f"{low} to {high}", written, high)
    assert rows_of("".join(f"<tr><td>{one}</td></tr>" for one in cells)) == [
        ["a", "a (SI, low)", "a (SI, high)", "a (unit)"],
        ["1 s to 2 s", "1.0", "2.0", "s"],
        ["3 to 4 s", "3.0", "4.0", "s"],
        ["2 s", "2.0", "2.0", "s"],
    ]


def test_measured_and_published_figures_have_columns_of_their_own() -> None:
    ours = '<strong><data value="5" data-unit="bytes">5 B</data> <small>one run</small></strong>'
    theirs = '<span class="theirs"><data value="7.0" data-unit="s" data-published>7 s</data></span>'
    assert rows_of(f"<tr><td>{theirs}</td></tr><tr><td>{ours}{theirs}</td></tr>") == [
        ["a", "a measured (SI)", "a measured (unit)", "a published (SI)", "a published (unit)"],
        ["7 s", "", "", "7.0", "s"],
        ["5 B; one run; 7 s", "5", "bytes", "7.0", "s"],
    ]


def test_a_count_and_what_it_is_of_are_both_in_the_file() -> None:
    count, whole = (f'<data value="{one}" data-unit="1">{one}</data>' for one in (3, 4))
    assert rows_of(f"<tr><td>{count} <small>of {whole}</small></td></tr>")[1] == [
        "3 of 4",
        "3",
        "1",
        "4",
        "1",
    ]


def test_files_of_the_front_page_keep_published_figures_apart(real: Path) -> None:
    def of(name: str) -> list[dict[str, str]]:
        text = (real / "tables" / f"index.{name}.csv").read_text(encoding="utf-8")
        return list(csv.DictReader(io.StringIO(text)))

    for row in of("kinds-of-sandbox"):
        for name in ("Jail FreeBSD", "bhyve FreeBSD"):
            assert f"{name} (SI)" not in row and f"{name} measured (SI)" not in row
            assert bool(row[f"{name} published (SI)"]) == bool(row[f"{name} published (unit)"])
    ranges = of("two-clusters-of-the-same-project-six-days-apart-median")
    for row in ranges:
        low, high = (float(row[f"CubeSandbox published (SI, {end})"]) for end in ("low", "high"))
        assert low < high


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


def column(browser: Browser, table: str, at: int) -> list[tuple[str, float] | None]:
    """The unit and value of each row's figure."""
    shown = browser.evaluate(
        f"JSON.stringify([...{table}.tBodies[0].rows].map(r => r.cells[{at}].querySelector('data'))"
        ".map(d => d && [d.dataset.unit, Number(d.value)]))"
    )
    return [one and (one[0], one[1]) for one in json.loads(shown)]


@CHROMIUM
@pytest.mark.parametrize(
    ("page", "number", "head"),
    [
        ("claims.html", 1, "measured here"),
        ("runs.html", 0, "median"),
        ("numbers.html", 0, "median"),
    ],
)
def test_sorting_groups_units_and_keeps_rows_without_a_figure_last(
    browser: Browser, real: Path, page: str, number: int, head: str
) -> None:
    browser.view(1280)
    browser.open((real / page).as_uri())
    table = (
        f"[...document.querySelectorAll('table')].filter(t => t.querySelector('.sort'))[{number}]"
    )
    heads = f"[...{table}.tHead.rows[0].cells]"
    at = browser.evaluate(f"{heads}.findIndex(h => h.innerText.trim() === {head!r})")
    for sign in (1, -1):
        browser.evaluate(f"{heads}[{at}].querySelector('.sort').click()")
        shown = column(browser, table, at)
        figures = [one for one in shown if one]
        assert len(figures) > 3 and shown[: len(figures)] == figures
        assert figures == sorted(figures, key=lambda one: (one[0], sign * one[1]))
    assert browser.complaints == []


@CHROMIUM
def test_the_sum_of_a_table_stays_below_its_rows(browser: Browser, real: Path) -> None:
    browser.open((real / "e2b.html").as_uri())
    assert browser.evaluate(
        "[...document.querySelectorAll('table.marks')].every(t => {"
        "t.querySelectorAll('.sort').forEach(b => b.click());"
        "return t.rows[t.rows.length - 1].cells[0].innerText === 'score'"
        " && [...t.tBodies[0].rows].every(r => r.cells[0].innerText !== 'score')})"
    )


@CHROMIUM
def test_a_long_table_filters_while_one_types(browser: Browser, real: Path) -> None:
    browser.open((real / "claims.html").as_uri())
    rows = "[...document.querySelectorAll('tr[id]')].filter(r => !r.hidden).map(r => r.id)"
    every = browser.evaluate(rows)
    browser.evaluate(
        "(() => {const t = document.getElementById('coppice-thousand').closest('table');"
        "const f = [...document.querySelectorAll('.filter')].filter(f =>"
        " f.compareDocumentPosition(t) & Node.DOCUMENT_POSITION_FOLLOWING).pop();"
        "const i = f.querySelector('input'); i.value = 'jail network';"
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
