"""The essays, the appendices, and the page that lists them."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from harness import paths
from harness.site.charts import cold_start_charts
from harness.site.data import essays
from harness.site.data.corpus import Corpus
from harness.site.page import Document, Item, Nav, Page

_LINES = 900
"""The most lines of a patch that a page shows."""


def _patches(corpus: Corpus) -> Markup:
    """The patches of this checkout, each with its digest and text."""
    parts = []
    for name, sha256 in sorted(corpus.patches.items()):
        if not name.endswith((".diff", ".patch")):
            continue
        lines = (paths.DATA / name).read_text(errors="replace", encoding="utf-8").splitlines()
        added = sum(one.startswith("+") and not one.startswith("+++") for one in lines)
        removed = sum(one.startswith("-") and not one.startswith("---") for one in lines)
        parts.append(
            Markup(
                "<details><summary><code>{}</code>: {} lines added, {} removed</summary>"
                '<p class="small">SHA-256 <code>{}</code></p>'
                '<pre class="scroll" tabindex="0"><code>{}</code></pre></details>'
            ).format(
                # An empty line would end the HTML block, and Markdown would parse the rest.
                name,
                added,
                removed,
                sha256,
                Markup("&#10;").join(lines[:_LINES]),
            )
        )
    return Markup("\n\n").join(parts) or Markup("This checkout contains no patch.")


def _render(corpus: Corpus) -> Iterator[Item]:
    look = essays.Lookup(corpus)
    shown = _patches(corpus)
    found = essays.found()
    for number, essay in enumerate(found):
        yield Document(
            essay.path,
            "essay.html",
            essay.title,
            essay.description,
            {
                "essay": essay,
                "look": look,
                "before": found[number - 1] if number else None,
                "after": found[number + 1] if number + 1 < len(found) else None,
                "drawing": cold_start_charts.clock_picture("essay-clock").svg(),
                "patches": shown,
                "errata": [one for one in corpus.published if one.remark],
            },
        )
    yield Document(
        "essays.html",
        "essays.html",
        "Read",
        "Essays and appendices.",
        {
            "essays": [one for one in found if one.kind == "essay"],
            "appendices": [one for one in found if one.kind == "appendix"],
        },
    )


PAGE = Page(_render, Nav("Read", "essays.html", 45))
