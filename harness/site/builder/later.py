"""What a run's page says of the runs that superseded it.

A run's page is made as soon as its record is read, when later records are not known yet: this is
put into the page at the end, and again only if it has changed.
"""

from __future__ import annotations

import re

from markupsafe import Markup

from harness.errors import SiteError
from harness.measure.supersession import Superseded
from harness.site.data.addresses import relative
from harness.site.data.corpus import Corpus, RecordEntry

_PLACE = re.compile(rb'<p id="later"[^>]*>.*?</p>', re.S)


def text(corpus: Corpus, entry: RecordEntry) -> str:
    """The paragraph, as HTML; empty if the record is current."""
    found = corpus.superseded.get(entry.summary.run_id)
    return _paragraph(corpus, entry, found) if found else ""


def _paragraph(corpus: Corpus, entry: RecordEntry, found: Superseded) -> str:
    newer = [corpus.by_run[id] for id in found.by]
    links = Markup(", ").join(
        Markup('<a href="{}">{} of {}</a>').format(
            relative(entry.page, one.page), one.summary.rig.id, one.date
        )
        for one in newer
    )
    changed = "; ".join(_named(name, entry, newer) for name in found.changes)
    return str(
        Markup(
            '<p id="later"><span class="badge superseded">superseded</span> All that this run '
            "measured was measured again, by {}. {}</p>"
        ).format(
            links,
            f"Changed by then: {changed}."
            if changed
            else "Nothing had changed by then: it is only older.",
        )
    )


def _named(name: str, entry: RecordEntry, newer: list[RecordEntry]) -> str:
    """A change, with the values that tell most."""
    before = entry.summary
    after = list(dict.fromkeys(one.summary.git.commit or "unknown" for one in newer))
    if name == "the commit" and (before.git.commit or "unknown") not in after:
        to = " and ".join(one[:8] for one in after)
        return f"the commit, from {(before.git.commit or 'unknown')[:8]} to {to}"
    if name == "the kernel":
        to = " and ".join(dict.fromkeys(one.summary.machine.kernel for one in newer))
        return f"the kernel, from {before.machine.kernel} to {to}"
    return name


def within(page: bytes, paragraph: str, path: str) -> bytes:
    """A run's page with this paragraph in its place."""
    found = _PLACE.search(page)
    if not found:
        raise SiteError(f"{path} has no place for what superseded it")
    text = paragraph or '<p id="later"></p>'
    return page[: found.start()] + text.encode() + page[found.end() :]
