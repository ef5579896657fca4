"""No essay says that something was not measured which another rig measured."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

pytest.importorskip("jinja2", reason="the site's packages are not installed: pip install .")

from harness.paths import ESSAYS
from harness.site.data.corpus import Corpus, load
from harness.site.data.essays import Lookup

_MEASURED = re.compile(r"\{\{ (measured\(.*?\)) \}\}", re.S)


def asked(text: str) -> list[tuple[list[str], dict[str, object]]]:
    """The arguments of every `measured(...)` in an essay, by position and by name."""
    found = []
    for call in _MEASURED.findall(text):
        tree = ast.parse(call, mode="eval").body
        assert isinstance(tree, ast.Call)
        named = {one.arg or "": ast.literal_eval(one.value) for one in tree.keywords}
        found.append(([ast.literal_eval(one) for one in tree.args], named))
    return found


@pytest.fixture(scope="module")
def real(kept: Path) -> Corpus:
    return load(kept, kept / "published")


def elsewhere(real: Corpus, metric: str, wanted: dict[str, object]) -> set[str]:
    """The rigs with such a series on the machine that essays show."""
    same = {name: value for name, value in wanted.items() if name in ("substrate", "concurrency")}
    return {
        entry.summary.rig.id
        for entry in real.machines[real.machine or ""]
        for series in entry.summary.series
        if series.metric == metric
        and series.n
        and all(series.dimensions.get(name) == value for name, value in same.items())
    }


def test_what_another_rig_measured_is_shown(real: Corpus) -> None:
    look, seen = Lookup(real), 0
    for path in sorted(ESSAYS.glob("*.md")):
        for (rig, metric, *_), named in asked(path.read_text(encoding="utf-8")):
            wanted = {name: value for name, value in named.items() if name != "statistic"}
            if not look.series(rig, metric, **wanted) and not look.proof(rig, metric, **wanted):  # type: ignore[arg-type]
                assert not elsewhere(real, metric, wanted), (path.name, metric, wanted)
            seen += 1
    assert seen > 10
