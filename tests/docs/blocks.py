"""The code blocks of a page, as CI runs them.

A block's first line says what it is::

    ```toml file=pyproject.toml      a file of that name, with this text
    ```yaml append=claims.yaml       text to add to a file that is there
    ```sh run                        commands, each of which must succeed
    ```sh                            shown, and not run

`python -m tests.docs.blocks` writes the files of examples/ into the pages that show them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.commands.tools import ROOT

_BLOCK = re.compile(r"^```(?P<info>[^\n`]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = {
    "adding-a-substrate.md": ROOT / "examples/coppice-unshare",
    "adding-a-rig.md": ROOT / "examples/coppice-exec-burst",
}
"""Pages that show the files of an example, by the names they have there."""


@dataclass(frozen=True)
class Block:
    """`attributes` are the words after the language; one without a value is True's text "yes"."""

    language: str
    attributes: dict[str, str]
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block of a page that names a language, in order."""
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        language, *rest = match["info"].split()
        pairs = (word.partition("=") for word in rest)
        yield Block(language, {name: value or "yes" for name, _, value in pairs}, match["text"])


def shell(page: Path) -> Iterator[str]:
    """The shell commands that a page shows and no test runs: blocks of sh, and indented ones."""
    for block in blocks(page):
        if block.language == "sh" and "run" not in block.attributes:
            yield block.text
    plain = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    yield from re.findall(r"(?:^ {4}(?! ).*\n(?:^ {6,}.*\n)*)+", plain, re.MULTILINE)


def commands(text: str) -> Iterator[str]:
    """The commands of a shell block, each on one line, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        if bare := shlex.join(shlex.split(line, comments=True)):
            yield bare


def with_examples(page: Path, example: Path) -> str:
    """The page's text, with each `file=` block as the example has that file."""

    def put(match: re.Match[str]) -> str:
        named = re.search(r"\bfile=(\S+)", match["info"])
        if not named:
            return match[0]
        return f"```{match['info']}\n{(example / named[1]).read_text(encoding='utf-8')}```"

    return _BLOCK.sub(put, page.read_text(encoding="utf-8"))


def main() -> None:
    for name, example in SHOWN.items():
        page = ROOT / "docs" / name
        page.write_text(with_examples(page, example), encoding="utf-8")


if __name__ == "__main__":
    main()
