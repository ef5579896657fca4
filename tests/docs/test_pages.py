"""What the pages tell a reader to do works: their own code blocks, from the first to the last."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.claims.verdict import Verdict
from harness.measure.record import find, load
from tests.commands.tools import ROOT, script
from tests.docs.blocks import SHOWN, blocks, with_examples
from tests.package.conftest import Installed

DOCS = ROOT / "docs"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="its sandboxes need root")
COPIED = ("harness", "rigs", "site", "patches", "results/published", "pyproject.toml")


def follow(page: Path, directory: Path, bin: Path) -> None:
    """Do what a page says, in a directory; what is in `bin` comes first on PATH."""
    environment = {**os.environ, "PATH": f"{bin}:{os.environ['PATH']}"}
    environment.pop("VIRTUAL_ENV", None)
    for block in blocks(page):
        if name := block.attributes.get("file"):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(block.text, encoding="utf-8")
        elif name := block.attributes.get("append"):
            assert (directory / name).is_file(), f"{page.name} adds to {name}, which is not there"
            with (directory / name).open("a", encoding="utf-8") as file:
                file.write(block.text)
        elif "run" in block.attributes:
            done = subprocess.run(
                ["sh", "-eu", "-c", block.text],
                cwd=directory,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=280,
                encoding="utf-8",
            )
            assert done.returncode == 0, f"{page.name}:\n{block.text}\n{done.stdout}"


@pytest.fixture(scope="module")
def reader(wheel: Path, environment: Callable[..., Installed]) -> Installed:
    """Coppice installed as the pages ask for it, with a pip that fetches nothing and a pytest."""
    made = environment(wheel)
    argv = f"'{sys.executable}' -m pip --python '{made.bin}/python' --no-input"
    script(made.bin / "pip", f'exec {argv} "$@" --no-deps --no-build-isolation --quiet\n')
    script(made.bin / "pytest", f"exec '{made.bin}/python' -m pytest -p no:cacheprovider \"$@\"\n")
    return made


@needs_root
@pytest.mark.parametrize("name", SHOWN)
def test_adding_a_package(name: str, reader: Installed, tmp_path: Path) -> None:
    follow(DOCS / name, tmp_path, reader.bin)
    records = [load(path) for path in find(tmp_path / "results")]
    assert records and all(any(one.samples for one in record.series) for record in records)
    for record in records:
        brought_by = record.rig.distribution.name if record.rig.distribution else None
        assert SHOWN[name].name in {brought_by, *record.tools}
        assert list((tmp_path / "_site").rglob(f"{record.run_id.lower()}*.html")), "its page"


@pytest.mark.parametrize("name", SHOWN)
def test_a_page_shows_the_example_as_it_is(name: str) -> None:
    page = DOCS / name
    shown = {block.attributes["file"] for block in blocks(page) if "file" in block.attributes}
    assert page.read_text(encoding="utf-8") == with_examples(page, SHOWN[name]), (
        "make it anew: .venv/bin/python -m tests.docs.blocks"
    )
    there = {
        path.relative_to(SHOWN[name]).as_posix()
        for path in SHOWN[name].rglob("*")
        if path.suffix in (".py", ".toml") and "build" not in path.parts
    }
    assert shown == there


@needs_root
def test_adding_a_claim(tmp_path: Path) -> None:
    for name in COPIED:
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    # `python -m` looks in the directory that it is started in before it looks at this checkout.
    for program, module in (("coppice", "harness.cli"), ("pytest", "pytest")):
        script(tmp_path / ".venv/bin" / program, f"exec '{sys.executable}' -m {module} \"$@\"\n")
    follow(DOCS / "adding-a-claim.md", tmp_path, tmp_path / ".venv/bin")
    (record,) = [load(path) for path in find(tmp_path / "lab")]
    verdict = Verdict.REACHED if record.validity.status == "valid" else Verdict.INCONCLUSIVE
    text = (tmp_path / "lab-site/claims/example-start.html").read_text(encoding="utf-8")
    assert record.run_id.lower() in text and verdict in text


@needs_root
@pytest.mark.parametrize("name", ["adding-a-record.md", "quickstart-linux.md"])
def test_measuring_from_anywhere(name: str, reader: Installed, tmp_path: Path) -> None:
    follow(DOCS / name, tmp_path, reader.bin)
    (record,) = [load(path) for path in find(tmp_path / "results")]
    assert record.rig.id == "cold-start"


def test_every_block_that_claims_to_run_is_run_by_a_test() -> None:
    tested = {*SHOWN, "adding-a-claim.md", "adding-a-record.md", "quickstart-linux.md"}
    running = {
        page.name
        for page in DOCS.glob("*.md")
        if any("run" in block.attributes for block in blocks(page))
    }
    assert running - {"reading-records.md"} == tested, "reading-records.md has a test of its own"
