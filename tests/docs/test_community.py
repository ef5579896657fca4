"""The files that forges and citation tools read are of the form that these expect."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.commands.tools import ROOT

TEMPLATES = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.md"))


def test_the_citation_is_of_cff_1_2() -> None:
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert found["cff-version"] == "1.2.0"
    assert all(isinstance(found[key], str) and found[key] for key in ("message", "title"))
    assert found["type"] in ("software", "dataset")
    assert set(found) <= {
        "abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi",
        "identifiers", "keywords", "license", "message", "references", "repository-code", "title",
        "type", "url", "version",
    }  # fmt: skip
    for author in found["authors"]:
        assert set(author) <= {"name", "family-names", "given-names", "orcid", "affiliation"}
        assert author.get("name") or (author.get("family-names") and author.get("given-names"))


def test_the_citation_agrees_with_the_package() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cited["license"] == project["license"]
    assert cited["keywords"] == project["keywords"]
    holder = re.search(r"Copyright \(c\) \d+, (.+)", (ROOT / "LICENSE").read_text(encoding="utf-8"))
    assert holder and cited["authors"][0]["name"].lower() == holder[1].lower()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_an_issue_template_says_what_it_is_for(template: Path) -> None:
    match = re.fullmatch(r"---\n(.*?)\n---\n(.+)", template.read_text(encoding="utf-8"), re.DOTALL)
    assert match, "begins with a front matter between lines of ---"
    facts = yaml.safe_load(match[1])
    assert set(facts) == {"name", "about", "title", "labels"}
    assert facts["name"] and len(facts["about"]) < 200
    assert "**" in match[2], "asks for something"


def test_there_is_a_template_for_each_kind_of_contribution() -> None:
    assert [path.stem for path in TEMPLATES] == ["bug", "record", "rig-or-claim"]
    config = yaml.safe_load(
        (ROOT / ".github/ISSUE_TEMPLATE/config.yml").read_text(encoding="utf-8")
    )
    assert isinstance(config["blank_issues_enabled"], bool)
    text = (ROOT / ".github/PULL_REQUEST_TEMPLATE.md").read_text(encoding="utf-8")
    assert "docs/adding-a-record.md" in text and text.count("- [ ]") > 4


@pytest.mark.parametrize(
    "path", [*TEMPLATES, ROOT / ".github/PULL_REQUEST_TEMPLATE.md"], ids=lambda path: path.stem
)
def test_a_page_that_a_template_names_is_there(path: Path) -> None:
    for name in re.findall(r"\bdocs/[\w-]+\.md\b", path.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), name


def test_the_changelog_is_newest_first() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    days = re.findall(r"^###? (?:\[?[\w.]+\]? - )?(\d{4}-\d{2}-\d{2})$", text, re.MULTILINE)
    assert days and days == sorted(days, reverse=True)
    kinds = set(re.findall(r"^####? ([A-Z]\w+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
