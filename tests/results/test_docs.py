"""docs/reading-records.md: its code runs on the committed records, and its table is correct."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pandas
import pytest

from harness import results
from harness.measure.statistics import smallest_n
from tests.site.conftest import kept

__all__ = ["kept"]

PAGE = Path(__file__).parents[2] / "docs" / "reading-records.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def test_the_code_of_the_page_runs_on_the_committed_records(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results").symlink_to(kept)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    found = blocks()
    assert len(found) >= 6
    for number, block in enumerate(found):
        exec(compile(block, f"{PAGE.name}, block {number + 1}", "exec"), names)
    newest, table, ladder = names["newest"], names["table"], names["ladder"]
    assert isinstance(newest, pandas.DataFrame) and len(newest) >= 4
    # The results agree with the records.
    tier = newest.iloc[0]["tier"]
    (row,) = ladder[
        (ladder["record"] == newest.iloc[0]["record"]) & (ladder["metric"] == "first-reply")
    ].to_dict("records")
    assert row["p50"] == newest.iloc[0]["p50"] and math.isfinite(row["p50"])
    assert "first-reply" in table.columns and tier in table.index
    assert (tmp_path / "first-reply.pdf").read_bytes().startswith(b"%PDF")
    assert tier in capsys.readouterr().out


def test_the_table_of_columns_is_that_of_the_code() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.M
    )
    assert rows == [
        (column.name, column.dtype, column.of, column.meaning) for column in results.COLUMNS
    ]


def test_the_numbers_of_samples_that_the_page_names_are_right() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"p95 needs {smallest_n(95)} samples, p99 needs {smallest_n(99)}" in text
    for name in results.FIGURES:
        assert f"`{re.sub('p(90|95|99)', 'p50', name)}`" in text
