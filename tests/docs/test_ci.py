"""The CI files that users copy: they parse, and what they run is there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands.tools import ROOT
from tests.docs.test_commands import tasks

DIRECTORY = ROOT / "docs/ci"
SCHEMAS = {"github": "github-workflows", "gitlab": "gitlab-ci", "circleci": "circle-ci"}
"""The names under which check-jsonschema has the hosts' schemas."""
CHOSEN = {"${{ matrix.task }}", "<< parameters.task >>"}
"""What stands for the task where a file runs several by one job."""
FILES = sorted(DIRECTORY.iterdir())


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def texts(node: Any) -> Iterator[str]:
    """Every string in a document."""
    if isinstance(node, dict):
        for value in node.values():
            yield from texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)
    elif isinstance(node, str):
        yield node


def scripts(node: Any, key: str = "") -> Iterator[str]:
    """The shell scripts of a document, by the keys under which the three hosts have them."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from scripts(value, str(name))
    elif isinstance(node, list):
        for value in node:
            yield from scripts(value, key)
    elif isinstance(node, str) and key in ("run", "command", "script", "before_script"):
        yield node


def lists(node: Any, key: str) -> Iterator[list[str]]:
    """Every list of strings that stands under `key`, at any depth."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key and isinstance(value, list):
                yield [str(one) for one in value]
            else:
                yield from lists(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from lists(value, key)


def run_tasks(path: Path) -> set[str]:
    """The mise tasks that a file runs."""
    document, found = parsed(path), set()
    for script in scripts(document):
        for task in re.findall(r"bin/mise run ((?:\$\{\{|<<)[^}>]+(?:\}\}|>>)|\S+)", script):
            if task in CHOSEN:
                key = "task" if "matrix" in task else "enum"
                found |= {name for names in lists(document, key) for name in names}
            else:
                found.add(task)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_runs_both_commands_of_the_readme(path: Path) -> None:
    found = run_tasks(path)
    assert {"bench", "test"} <= found
    assert found <= set(tasks()), "each task is one that mise knows"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_keeps_records_pages_and_logs_of_failures(path: Path) -> None:
    whole = parsed(path)
    kept = " ".join(texts(whole)).split()
    assert {"results", "_site"} <= set(kept)
    (failures,) = {
        value.removeprefix("$CI_PROJECT_DIR/")
        for value in texts(whole)
        if value.endswith("failures") and ("/tmp" in value or "$" in value) and " " not in value
    }
    assert failures in kept


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_scripts_are_shell(path: Path) -> None:
    found = list(scripts(parsed(path)))
    assert found
    for script in found:
        text = re.sub(r"\$\{\{.*?\}\}|<<.*?>>", "bench", script)
        done = subprocess.run(
            ["sh", "-n"], input=text, capture_output=True, text=True, encoding="utf-8"
        )
        assert done.returncode == 0, f"{script}\n{done.stderr}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_fits_the_schema_of_its_host(path: Path) -> None:
    schema = f"vendor.{SCHEMAS[path.stem]}"
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout


def test_the_page_describes_each_file() -> None:
    page = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
    assert {path.stem for path in FILES} == set(SCHEMAS)
    assert all(f"(ci/{path.name})" in page for path in FILES)
