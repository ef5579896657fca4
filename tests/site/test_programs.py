"""The first program that no rehearsal has run stands beside the rehearsed one."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from harness.measure import record
from harness.site.builder.build import build
from tests.site import factory

TIER = "durable-prewarm-pool"


def _page(results: Path, out: Path) -> str:
    build(results, out)
    return (
        (out / "cold-start.html")
        .read_text(encoding="utf-8")
        .split('id="programs"')[1]
        .split("</section>")[0]
    )


def test_a_page_shows_both(tmp_path: Path) -> None:
    made = factory.cold_start(TIER)
    executed = next(one for one in made.series if one.metric == "first-exec")
    shell = dataclasses.replace(
        executed,
        metric="first-program",
        dimensions={**executed.dimensions, "program": "sh", "rehearsed": "no"},
        samples=[12 * sample for sample in executed.samples],
    )
    results = tmp_path / "results"
    record.write(dataclasses.replace(made, series=[*made.series, shell]), results)
    section = _page(results, tmp_path / "site")
    text = re.sub(r"<[^>]+>", " ", section)
    assert re.search(r"tier\s+first-exec\s+sh\s", text)
    assert text.index("emulated, rehearsed") < text.index("emulated, not rehearsed")
    assert len(re.findall("<data ", section)) == 2


def test_a_page_without_such_a_run_says_what_measures_it(tmp_path: Path) -> None:
    results = tmp_path / "results"
    record.write(factory.cold_start(TIER), results)
    assert "<code>coppice run cold-start</code>" in _page(results, tmp_path / "site")
