"""Every command that a page shows is one: its options are parsed, its task exists."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import errors
from harness.cli import ERROR_CODES, parser
from tests.commands.tools import ROOT
from tests.docs.blocks import commands, shell

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples/README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def shown() -> Iterator[tuple[str, Sequence[str]]]:
    """Each simple command in the shell blocks of the pages, without its variables."""
    for page in PAGES:
        for text in shell(page):
            for line in commands(text):
                for part in re.split(r"&&|\|\||[;|>]", line):
                    with contextlib.suppress(ValueError):  # a quotation was cut by the split
                        words = shlex.split(part)
                        while words and re.fullmatch(r"\w+=\S*", words[0]):
                            words.pop(0)
                        if words:
                            yield page.name, words


def tasks() -> dict[str, list[str]]:
    """The command of every task that mise knows, by name."""
    of_rigs = tomllib.loads((ROOT / "rigs/tasks.toml").read_text(encoding="utf-8"))
    own = tomllib.loads((ROOT / "mise.toml").read_text(encoding="utf-8"))["tasks"]
    return {
        name: shlex.split(task["run"]) if isinstance(task["run"], str) else []
        for name, task in {**of_rigs, **own}.items()
    }


def refusal(words: Sequence[str]) -> str | None:
    """Why the command line refuses these arguments of `coppice`; None when it takes them."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            parser(words[0]).parse_args(list(words))
        except SystemExit as end:
            return said.getvalue() if end.code else None
    return None


def test_each_coppice_command_is_parsed() -> None:
    known, tried, refused = tasks(), 0, []
    for page, words in shown():
        if Path(words[0]).name == "coppice":
            given = list(words[1:])
        elif Path(words[0]).name == "mise" and words[1:2] == ["run"]:
            assert words[2] in known, f"{page}: no task is called {words[2]}"
            rest = [word for word in words[3:] if word != "--"]
            if known[words[2]][:1] != [".venv/bin/coppice"]:
                continue
            given = [*known[words[2]][1:], *rest]
        else:
            continue
        tried += 1
        if why := refusal(given):
            refused.append(f"{page}: {shlex.join(words)}: {why}")
    assert tried > 40
    assert refused == []


def test_a_command_that_is_none_is_refused() -> None:
    assert refusal(["run", "cold-start", "--subtrate", "qemu"])
    assert refusal(["sight"])
    assert refusal(["site", "--help"]) is None


def test_the_exit_codes_are_those_of_the_errors() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    raised = {getattr(errors, name).exit_code for name in errors.__all__ if name != "Interrupted"}
    assert told == raised | {0, 1}
    listed = {int(code) for code in re.findall(r"\b(\d{2,3})\b", ERROR_CODES)}
    assert listed == raised | {141}, "what --help of every command lists"
