"""History: a series over its runs on one machine."""

from __future__ import annotations

from collections.abc import Iterator

from harness.site.data.addresses import slug
from harness.site.data.corpus import Corpus
from harness.site.data.tracks import tracks
from harness.site.pages.history import picture_of, rows_of
from harness.site.plots.plot import Family, Plot

_PREFIX = "history/"


def _plots(corpus: Corpus) -> Iterator[Plot]:
    for track in tracks(corpus, corpus.machine) if corpus.machine else ():
        # Without the machine, which is the same for all.
        yield Plot(f"{_PREFIX}{slug(track.rig)}-{track.anchor}", picture_of(track), rows_of(track))


FAMILY = Family("a series over its runs", _plots, many=True, prefix=_PREFIX)
