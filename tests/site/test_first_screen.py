"""The first screen in Chromium: what is claimed, by whom, what was measured, the verdict."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.claims.verdict import Verdict
from tests.site import browser as driving
from tests.site.browser import Browser

pytestmark = pytest.mark.skipif(
    driving.program() is None, reason="Chromium is not installed: apt-get install chromium"
)

_SCREENS = ((1280, 800), (390, 844))
_HEADLINES = {
    "coppice-thousand": "1 000",
    "coppice-density": "9 117 MiB",
    "coppice-cold-start": "17 ms",
}
"""The three headlines of the original Coppice (FreeBSD), as it writes them."""

_PROVED = {
    "coppice-thousand": "function proved with 4 guests on FreeBSD 13.2",
    "coppice-density": "function proved with 4 guests on FreeBSD 13.2",
    "coppice-cold-start": "function proved on FreeBSD 13.2",
}
"""What the committed records prove there: far fewer guests than the claims are about."""

# The text of a row whose whole box lies within the window, with what lies outside left out.
_VISIBLE = """(id => {
  const row = document.getElementById(id);
  if (!row) return null;
  const inside = e => { const r = e.getBoundingClientRect();
    return r.width > 1 && r.height > 1 && r.top >= 0 && r.left >= 0 && r.bottom <= innerHeight
      && r.right <= innerWidth };
  const cell = name => { const e = row.querySelector(name);
    return e && inside(e) ? e.innerText.replaceAll('\\u202f', ' ').trim() : '' };
  return {claimed: cell('.claimed'), measured: cell('.measured'), verdict: cell('.verdict'),
          where: cell('.where')} })"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with driving.browser() as one:
        yield one


@pytest.mark.parametrize(("width", "height"), _SCREENS)
def test_the_headlines_are_answered_on_the_first_screen(
    browser: Browser, real: Path, width: int, height: int
) -> None:
    browser.view(width, height)
    browser.open((real / "index.html").as_uri())
    with (real / "claims.csv").open(newline="", encoding="utf-8") as file:
        known = {(one["claim"], one["verdict"]) for one in csv.DictReader(file)}
    for id, claimed in _HEADLINES.items():
        row = browser.evaluate(f"{_VISIBLE}({id!r})")
        assert row, id
        assert claimed in row["claimed"], (id, row)
        assert "by the original Coppice (FreeBSD)" in " ".join(row["claimed"].split()), (id, row)
        assert any(letter.isdigit() for letter in row["measured"]), (id, row)
        verdicts = [one for one in Verdict if row["verdict"].startswith(one)]
        assert any((id, str(one)) in known for one in verdicts), (id, row)
        where = " ".join(row["where"].split())
        assert "Debian 12" in where and "emulated" in where, (id, row)
        assert _PROVED[id] in where, (id, row)
    shown = browser.evaluate(
        "[...document.querySelectorAll('.opening h1, .opening .what, .opening .tally')]"
        f".filter(e => e.getBoundingClientRect().bottom <= {height})"
        ".map(e => e.innerText).join(' ')"
    )
    assert "published claims" in shown and "judged" in shown
    assert "another project of the same name, the original Coppice (FreeBSD)" in shown


def test_a_row_below_the_first_screen_would_be_missed(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "low.html"
    page.write_text(
        "<div style='height:2000px'></div><table><tr id=x><td class=claimed>1<td class=measured>2"
        "<td class=verdict>3<td class=where>4</table>",
        encoding="utf-8",
    )
    browser.view(1280, 800)
    browser.open(page.as_uri())
    assert set(browser.evaluate(f"{_VISIBLE}('x')").values()) == {""}


def test_no_column_of_the_front_page_is_clipped(browser: Browser, real: Path) -> None:
    browser.view(1280)
    browser.open((real / "index.html").as_uri())
    clipped = browser.evaluate(
        "[...document.querySelectorAll('.scroll')]"
        ".filter(e => e.clientWidth && e.scrollWidth > e.clientWidth)"
        ".map(e => e.getAttribute('aria-label'))"
    )
    assert clipped == []
    # On a phone the rows are cards: nothing goes beyond the window, whatever the kind of sandbox.
    browser.view(390)
    browser.open((real / "index.html").as_uri())
    cells = "[...document.querySelectorAll('table.kinds td, table.claims td')]"
    right = browser.evaluate(f"Math.max(...{cells}.map(e => e.getBoundingClientRect().right))")
    assert right <= 390
    tops = browser.evaluate(
        "[...document.querySelectorAll('table.claims.cards tbody tr')].map(r => ["
        "r.querySelector('.verdict').getBoundingClientRect().top,"
        "r.querySelector('th').getBoundingClientRect().top])"
    )
    assert len(tops) > 10 and all(verdict < title for verdict, title in tops)
