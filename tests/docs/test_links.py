"""Every relative link of every page leads somewhere."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.tools import ROOT

_LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_FENCED = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
OF_OTHERS = ("CHANGELOG.md", "patches/")
"""What was, and what is in the sources of FreeBSD."""
ESSAYS = "site/essays/"
"""Their links are between pages of the site, whose tests follow them."""


def pages() -> list[str]:
    """Every Markdown file that is committed, or about to be."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:  # an unpacked archive
        return ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
    return [name for name in sorted(done.stdout.split()) if not name.startswith(ESSAYS)]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    headings = re.findall(
        r"^#+ (.+)$", _FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE
    )
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


def broken(page: Path) -> Iterator[str]:
    """The links of a page that lead nowhere."""
    text = _CODE.sub("", _FENCED.sub("", page.read_text(encoding="utf-8")))
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        inside = target.is_relative_to(ROOT.resolve()) or target.is_relative_to(page.parent)
        if not inside or not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("name", pages())
def test_links_lead_somewhere(name: str) -> None:
    assert list(broken(ROOT / name)) == []


def test_the_first_page_leads_to_every_page_of_the_documentation() -> None:
    linked = set(_LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    there = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert len(there) > 10
    assert there - linked == set()


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A head\n[x](nowhere.md) [y](page.md#a-head) [z](#none) `[c](no)`\n", encoding="utf-8"
    )
    assert list(broken(page)) == ["nowhere.md", "#none"]


@pytest.mark.parametrize("name", [name for name in pages() if not name.startswith(OF_OTHERS)])
def test_files_and_modules_that_a_page_names_are_there(name: str) -> None:
    """`harness/measure/clock.py` and `harness.measure.clock`, or a name in that module."""
    text = (ROOT / name).read_text(encoding="utf-8")
    # A name before a star is the beginning of several.
    files = re.findall(r"(?<![\w./-])(?:harness|rigs|tests|examples)/[\w/.-]+\w(?![\w/*-])", text)
    assert [path for path in files if "NAME" not in path and not _file(path)] == []
    modules = re.findall(r"(?<![\w./-])harness(?:\.[a-z_]+)+", text)
    assert [module for module in modules if not _module(module)] == []


def _file(path: str) -> bool:
    return (ROOT / path.replace("VERSION", "2.63.0")).exists() or path.startswith("harness/data")


def _module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return any(one.with_suffix(".py").exists() or one.is_dir() for one in (path, path.parent))
