"""The Nu HTML checker has no complaint about any page. (Charts as files are of SVG 2, which it does
not know: that they are well-formed is tested where they are written.)"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.site.conftest import Made, over_time

VNU = Path(__file__).parents[2] / ".venv/npm/node_modules/vnu-jar/build/dist/vnu.jar"

pytestmark = pytest.mark.skipif(
    not VNU.is_file() or shutil.which("java") is None,
    reason="the Nu HTML checker is not installed: bin/setup --tests, with npm and Java",
)


def complaints(*paths: Path) -> list[str]:
    argv = ["java", "-Xss4m", "-jar", str(VNU), "--format", "json", "--stdout", "--html"]
    done = subprocess.run(
        [*argv, *map(str, paths)], capture_output=True, text=True, encoding="utf-8"
    )
    return [
        f"{Path(one.get('url', '')).name}:{one.get('lastLine')}: {one['message']}"
        for one in json.loads(done.stdout)["messages"]
        if one["type"] == "error"
    ]


def test_every_page_is_valid_html_and_the_checker_would_complain(
    made: Made, repeated: Made, tmp_path: Path
) -> None:
    # In one call: starting Java takes longer than checking many a page.
    page = tmp_path / "wrong.html"
    page.write_text("<!DOCTYPE html><title>x</title><p><div></p><img>", encoding="utf-8")
    found = complaints(*made.pages(), *over_time(repeated), page)
    assert [one for one in found if not one.startswith("wrong.html:")][:10] == []
    assert len(found) >= 2
