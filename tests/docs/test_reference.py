"""The pages of reference say what the code says."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import paths
from harness.claims.verdict import Verdict
from harness.measure import schema_page
from harness.measure.clock import LADDER
from harness.remote import remote_run
from harness.rig import stages
from harness.sandbox.protocol import Role, Sharing, Tier
from tests.commands.tools import ROOT

DOCS = ROOT / "docs"
GUARD = "_H"
"""Ends the name of a C header's include guard, which is no variable."""


def rows(page: str) -> Iterator[list[str]]:
    """The cells of every row of a page's tables that is about a variable."""
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("| `COPPICE_"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def described() -> set[str]:
    return {row[0].strip("`") for row in rows("variables.md")}


def named(directory: Path, pattern: str = r"\bCOPPICE_[A-Z_]+\b") -> set[str]:
    """Every variable that the sources in a directory name."""
    files = [path for suffix in ("py", "c", "h") for path in directory.rglob(f"*.{suffix}")]
    return {
        name for path in files for name in re.findall(pattern, path.read_text(encoding="utf-8"))
    }


def read_by_tests() -> set[str]:
    return named(ROOT / "tests", r"environ(?:\.get\(|\[)\"(COPPICE_[A-Z_]+)")


def test_each_variable_is_described_and_each_described_one_is_there() -> None:
    in_code = {name for name in named(paths.PACKAGE) if not name.endswith(GUARD)}
    assert {"COPPICE_HOST", "COPPICE_ZYGOTE", "COPPICE_LINE"} <= in_code
    assert in_code - described() == set(), "add them to docs/variables.md"
    assert described() - in_code - read_by_tests() == set(), "nothing reads them"


def test_what_the_tests_alone_read_is_described() -> None:
    alone = read_by_tests() - named(paths.PACKAGE)
    assert "COPPICE_SLOW" in alone
    assert alone <= described()


def test_variables_that_go_to_another_host_are_marked() -> None:
    marked = {row[0].strip("`") for row in rows("variables.md") if row[1] == "yes"}
    assert marked == set(remote_run._PASSED_ON)


def test_the_schemas_page_is_made_of_the_schema() -> None:
    made = schema_page.page(json.loads(paths.RECORD_SCHEMA.read_text(encoding="utf-8")))
    assert (DOCS / "record-schema.md").read_text(encoding="utf-8") == made, (
        "make it anew: .venv/bin/python -m harness.measure.schema_page > docs/record-schema.md"
    )


def test_a_key_without_a_description_is_refused() -> None:
    schema = json.loads(paths.RECORD_SCHEMA.read_text(encoding="utf-8"))
    del schema["properties"]["series"]["items"]["properties"]["failures"]["items"]["properties"][
        "reason"
    ]["description"]
    with pytest.raises(ValueError, match="reason has no description"):
        schema_page.page(schema)


def test_the_glossary_has_every_word_that_records_and_commands_use() -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    announced = {
        value for name, value in vars(stages).items() if name.isupper() and isinstance(value, str)
    }
    assert stages.AT_REST in announced
    words = [*Tier, *Sharing, *Role, *Verdict, *(rung.name for rung in LADDER), *announced]
    assert [word for word in words if f"`{word}`" not in text] == []


def layers() -> list[list[str]]:
    """The layers that import-linter holds, top first; those of one line stand side by side."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]
    (contract,) = [one for one in settings["contracts"] if one["name"] == "layers"]
    return [
        [name.strip().removeprefix("harness.") for name in re.split(r"[|:]", line)]
        for line in contract["layers"]
    ]


def test_the_architectures_table_has_the_layers_in_their_order() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    shown = [
        re.findall(r"`harness/([a-z_]+)[./]", line.split("|")[1])
        for line in text.splitlines()
        if line.startswith("| `harness/")
    ]
    assert shown == layers()


def test_every_part_of_the_package_is_a_layer() -> None:
    parts = {path.parent.name for path in paths.PACKAGE.glob("*/__init__.py")}
    parts |= {path.stem for path in paths.PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert parts == {name for line in layers() for name in line}


def test_the_picture_shows_the_layers_top_down() -> None:
    picture = (DOCS / "architecture.svg").read_text(encoding="utf-8")
    texts = re.findall(r'y="(\d+)"[^>]*class="name">([a-z_]+)<', picture)
    heights = {name: int(y) for y, name in texts}
    assert set(heights) == {name for line in layers() for name in line}
    tops = [{heights[name] for name in line} for line in layers()]
    assert all(len(top) == 1 for top in tops), "those side by side stand at one height"
    order = [top.pop() for top in tops]
    assert order == sorted(order) and len(set(order)) == len(order)
