"""The directories of harness/site import one way: builder, plots, pages, charts, page.py, data."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import paths

SITE = paths.PACKAGE / "site"
LAYERS = ("data", "page", "charts", "pages", "plots", "builder")
"""From the lowest to the highest."""


def imports(source: str) -> Iterator[str]:
    """Every module that Python source imports, wherever the import is; `from a import b` is a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def upward(layer: str, source: str) -> list[str]:
    """What a module of a layer imports from a higher one."""
    found = []
    for name in imports(source):
        parts = name.split(".")
        inside = parts[:2] == ["harness", "site"] and len(parts) > 2 and parts[2] in LAYERS
        if inside and LAYERS.index(parts[2]) > LAYERS.index(layer):
            found.append(name)
    return found


def modules(layer: str) -> list[Path]:
    whole = SITE / f"{layer}.py"
    return [whole] if whole.exists() else sorted((SITE / layer).glob("*.py"))


@pytest.mark.parametrize("layer", LAYERS)
def test_no_module_imports_from_a_higher_layer(layer: str) -> None:
    found = {path.name: upward(layer, path.read_text(encoding="utf-8")) for path in modules(layer)}
    assert found
    assert {name: several for name, several in found.items() if several} == {}


def test_an_upward_import_is_found() -> None:
    assert upward("data", "from harness.site import charts") == ["harness.site.charts"]
    assert upward("charts", "def f():\n    import harness.site.builder.build")
    assert upward("pages", "from harness.site.charts.chart import Chart") == []
