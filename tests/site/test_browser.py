"""The built pages in headless Chromium: no complaint, no scroll sideways, nothing cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.site import browser as driving
from tests.site.browser import Browser
from tests.site.conftest import Made, over_time

pytestmark = pytest.mark.skipif(
    driving.program() is None, reason="Chromium is not installed: apt-get install chromium"
)

_WIDTHS = (390, 1280, 1920)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with driving.browser() as one:
        yield one


AXE = Path(__file__).parents[2] / ".venv/npm/node_modules/axe-core/axe.min.js"


def some(made: Made) -> list[Path]:
    """Every page that is one of its kind, and two of each kind that has many."""
    kinds: dict[str, list[Path]] = {}
    for path in made.pages():
        if path.name == "404.html":
            continue  # Its links begin at the root of a server: see test_missing.py.
        kinds.setdefault("/".join(path.relative_to(made.out).parts[:-1])[:7], []).append(path)
    return [
        path
        for kind, all in kinds.items()
        for path in (all if not kind else all[:: len(all) - 1 or 1])
    ]


@pytest.mark.skipif(not AXE.is_file(), reason="axe is not installed: bin/setup --tests, with npm")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(browser: Browser, made: Made, repeated: Made, dark: bool) -> None:
    script = AXE.read_text(encoding="utf-8")
    # What axe judges does not change with a width, but for what is hidden, nor with the ground but
    # for contrast, which `check_contrast` holds on every page: the rest is a sample.
    pages = [*over_time(repeated), *some(made)]
    few = pages[::5]
    rounds = ((1280, few),) if dark else ((1280, pages), (390, pages[:3]))
    for width, paths in rounds:
        browser.view(width, dark=dark)
        for path in paths:
            browser.open(path.as_uri())
            browser.evaluate(f"{script};0")
            # Its slowest rule is what `check_contrast` holds on every page, in both colours.
            contrast = "true" if path in few else "false"
            found = browser.evaluate_later(
                "axe.run({resultTypes: ['violations'], "
                f"rules: {{'color-contrast': {{enabled: {contrast}}}}}}}).then(r => "
                "r.violations.map(v => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 200)]))"
            )
            assert found == [], (path, found)


def test_axe_would_find_something(browser: Browser, tmp_path: Path) -> None:
    if not AXE.is_file():
        pytest.skip("axe is not installed: bin/setup --tests, with npm")
    page = tmp_path / "wrong.html"
    page.write_text("<img src='data:,'><p style='color:#eee'>pale</p>", encoding="utf-8")
    browser.open(page.as_uri())
    browser.evaluate(f"{AXE.read_text(encoding='utf-8')};0")
    found = browser.evaluate_later("axe.run().then(r => r.violations.map(v => v.id))")
    assert {"image-alt", "color-contrast"} <= set(found)
    browser.complaints.clear()


def test_pages_are_whole_without_script(browser: Browser, made: Made) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.view(1280)
        for path in some(made):
            browser.open(path.as_uri())
            root = browser.call("DOM.getDocument", depth=0)["root"]["nodeId"]
            shown = browser.call("DOM.getOuterHTML", nodeId=root)["outerHTML"]
            assert browser.complaints == [], path
            written = path.read_text(encoding="utf-8")
            for part in ("<main", "<h1", "<data ", "<svg", "<table", "<a href"):
                assert shown.count(part) == written.count(part), (path, part)
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_the_browser_would_report_a_page_that_is_wrong(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "wrong.html"
    page.write_text(
        "<img src=none.png><p style='width:3000px'>x<script>throw 1</script>", encoding="utf-8"
    )
    browser.view(390)
    browser.open(page.as_uri())
    assert len(browser.complaints) >= 2
    browser.complaints.clear()
    assert browser.evaluate("document.documentElement.scrollWidth") > 390


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", _WIDTHS)
def test_pages_load_cleanly_and_fit(
    browser: Browser, made: Made, repeated: Made, width: int, dark: bool
) -> None:
    browser.complaints.clear()
    for path in [*over_time(repeated), *some(made)]:
        browser.view(width, dark=dark)
        browser.open(path.as_uri())
        assert browser.complaints == [], path
        assert browser.evaluate("getComputedStyle(document.body).marginTop") == "0px"
        assert browser.evaluate("document.documentElement.scrollWidth") <= width, path
        # A chart's text must not be cut off at the window's edge.
        cut = browser.evaluate(
            "[...document.querySelectorAll('svg text')].filter(t => {"
            "const r = t.getBoundingClientRect();"
            f"return r.width && (r.left < 0 || r.right > {width})}}).map(t => t.textContent)"
        )
        assert cut == [], path
        if width == 1280:
            check_contrast(browser, path)


def test_pale_text_would_be_seen(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "pale.html"
    page.write_text("<body><p class=pale style='color:#aaa'>pale</p>", encoding="utf-8")
    browser.open(page.as_uri())
    with pytest.raises(AssertionError, match=r"P\.pale"):
        check_contrast(browser, page)


def check_contrast(browser: Browser, path: Path) -> None:
    """WCAG's contrast of 4.5 for every colour that text is set in, on the page that is open."""
    poor = browser.evaluate(
        """(() => {
              const rgb = c => (c.match(/[0-9.]+/g) || []).map(Number);
              const lum = c => { const [r, g, b] = c.map(v => { v /= 255;
                return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 });
                return .2126 * r + .7152 * g + .0722 * b };
              const ground = e => { for (; e; e = e.parentElement) {
                const c = rgb(getComputedStyle(e).backgroundColor);
                if (c.length === 3 || c[3] === 1) return c.slice(0, 3) } return [255, 255, 255] };
              const bad = new Set();
              for (const e of document.querySelectorAll('body *:not(title):not(desc)')) {
                if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
                const s = getComputedStyle(e);
                const ink = rgb(e.ownerSVGElement ? s.fill : s.color).slice(0, 3);
                const [a, b] = [lum(ink), lum(ground(e))].sort((x, y) => y - x);
                if ((a + .05) / (b + .05) < 4.5) bad.add(e.tagName + '.' + e.getAttribute('class'));
              }
              return [...bad] })()"""
    )
    assert poor == [], path


# Words that cover words, lie outside their drawing, or have a line through them. A grid line below
# letters with an edge in the page's colour ends at the letters.
_FAULTS = """(() => { const bad = [];
  const grid = ['major', 'minor', 'rule', 'step'];
  for (const svg of document.querySelectorAll('svg.chart[role=img]')) {
    const box = svg.getBoundingClientRect();
    const all = [...svg.querySelectorAll('text')].filter(e => e.textContent.trim())
      .map(e => [e, e.getBoundingClientRect()]).filter(([, r]) => r.width);
    all.forEach(([one, a], at) => all.slice(at + 1).forEach(([other, b]) => {
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      // Boxes of lines above each other touch; letters do not.
      if (across > 1 && down > 4) bad.push(`${one.textContent} / ${other.textContent}`) }));
    for (const [one, a] of all) {
      if (a.left < box.left - 1 || a.right > box.right + 1 || a.top < box.top - 1
        || a.bottom > box.bottom + 1) bad.push(`${one.textContent} outside`) }
    for (const line of svg.querySelectorAll('line')) {
      const l = line.getBoundingClientRect();
      for (const [one, a] of all) {
        if (l.right < a.left + 1 || l.left > a.right - 1
          || l.bottom < a.top + 4 || l.top > a.bottom - 4) continue;
        const below = line.compareDocumentPosition(one) & Node.DOCUMENT_POSITION_FOLLOWING
          && getComputedStyle(one).paintOrder.startsWith('stroke');
        if (!below || !grid.includes(line.getAttribute('class')))
          bad.push(`a line through ${one.textContent}`) } } }
  return bad })()"""


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_words_of_a_chart_are_clear_of_each_other_and_of_lines(
    browser: Browser, real: Path, width: int
) -> None:
    browser.view(width)
    charts = [
        path
        for path in sorted(real.glob("*.html"))
        if "<figure id=" in path.read_text(encoding="utf-8")
    ]
    assert len(charts) >= 4
    narrow = [real / f"claims/coppice-{name}.html" for name in ("eight", "fifty", "jail")]
    narrow += [real / "method.html", real / "essays/anatomy.html"]
    narrow += [
        *sorted(real.glob("history/*compare*.html"))[-1:],
        *sorted(real.glob("runs/*/*.html"))[:1],
    ]
    others = [*sorted(real.glob("claims/*.html"))[::4], *(narrow if width == 390 else ())]
    for path in dict.fromkeys([*charts, *others]):
        browser.open(path.as_uri())
        assert browser.evaluate(_FAULTS) == [], path


@pytest.mark.parametrize(
    ("drawing", "fault"),
    [
        ("<text y=20>one label</text><text x=30 y=22>other</text>", "one label / other"),
        ("<text y=20 x=90%>sticks out</text>", "sticks out outside"),
        ("<text y=20 x=10 text-anchor=end>left</text>", "left outside"),
        ("<text y=20>cut</text><line class=minor x1=9 x2=9 y2=50 />", "a line through cut"),
        ("<line class=claim x1=9 x2=9 y2=50 /><text y=20>cut</text>", "a line through cut"),
    ],
)
def test_words_that_are_not_clear_would_be_seen(
    browser: Browser, tmp_path: Path, drawing: str, fault: str
) -> None:
    page = tmp_path / "over.html"
    page.write_text(f"<svg class=chart role=img>{drawing}</svg>", encoding="utf-8")
    browser.open(page.as_uri())
    assert browser.evaluate(_FAULTS) == [fault]


def test_tables_are_no_wider_than_a_phone(browser: Browser, real: Path) -> None:
    browser.view(390)
    for name in ("network", "density", "cold-start", "compare"):
        browser.open((real / f"{name}.html").as_uri())
        wide = browser.evaluate(
            "[...document.querySelectorAll('main .scroll')].filter(e => !e.closest('details')"
            " && e.scrollWidth > e.clientWidth).map(e => e.getAttribute('aria-label'))"
        )
        assert wide == [], name


def test_a_phone_reads_the_chart_and_dots_are_drawn(browser: Browser, made: Made) -> None:
    browser.view(390)
    browser.open((made.out / "index.html").as_uri())
    size = browser.evaluate(
        "Math.min(...[...document.querySelectorAll('svg text')].map(t => "
        "parseFloat(getComputedStyle(t).fontSize)))"
    )
    assert size >= 12
    box = browser.evaluate(
        "(() => {const r = document.querySelector('figure path.samples').getBoundingClientRect();"
        "return [r.width, r.height]})()"
    )
    assert box[0] > 5 and box[1] > 10


def test_print_shows_what_a_screen_hides(browser: Browser, made: Made) -> None:
    browser.view(1280, dark=True, media="print")
    browser.open((made.out / "index.html").as_uri())
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    height = browser.evaluate(
        "document.querySelector('details table').getBoundingClientRect().height"
    )
    assert height > 100
    browser.view(1280)
    closed = browser.evaluate("document.querySelector('details table').checkVisibility()")
    assert closed is False
