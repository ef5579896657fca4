"""Matrices that others publish, such as which SDK methods a system supports.

They are data in results/published/matrices/*.yaml. Where a published figure counts a matrix's rows,
`counts` names it, and loading checks that the two agree. `methods` says which methods of the SDK a
row is about, by the names that the rig e2b-compat gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from harness.claims.published import LABELS, SAFE, Figure, PublishedError

EXTENSION = "extension"
"""The verdict of rows that have no counterpart, and so are in no count."""
_KEYS = ("publisher", "title", "when", "label", "source", "sdks", "verdicts", "groups")


@dataclass(frozen=True)
class PublishedMatrix:
    """Rows by group, each with one of `verdicts`, which says what each verdict means."""

    id: str
    publisher: str
    title: str
    when: str
    label: str
    source: str
    sdks: Sequence[str]
    verdicts: Mapping[str, str]
    groups: Mapping[str, Mapping[str, str]]
    remark: str = ""
    methods: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By row: the names, or patterns such as `pty.*`, of the methods that it is about."""

    def count(self, *verdicts: str) -> int:
        """How many rows have one of these verdicts."""
        return sum(one in verdicts for rows in self.groups.values() for one in rows.values())

    def of_method(self, method: str) -> str | None:
        """The verdict of the row about a method; None if no row is."""
        for rows in self.groups.values():
            for row, verdict in rows.items():
                if any(fnmatchcase(method, pattern) for pattern in self.methods.get(row, ())):
                    return verdict
        return None

    @property
    def total(self) -> int:
        """How many rows there are, extensions excluded."""
        return sum(map(len, self.groups.values())) - self.count(EXTENSION)


def load(directory: Path, figures: Sequence[Figure]) -> Sequence[PublishedMatrix]:
    """Every matrix below `directory`, the directory of published figures.

    Raises PublishedError, which names the file.
    """
    return [_matrix(path, figures) for path in sorted((directory / "matrices").glob("*.yaml"))]


def _matrix(path: Path, figures: Sequence[Figure]) -> PublishedMatrix:
    try:
        data: Any = yaml.load(path.read_text(encoding="utf-8"), SAFE)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PublishedError(f"{path} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise PublishedError(f"{path} must be a mapping")
    counts = data.pop("counts", {})
    missing = [key for key in _KEYS if not data.get(key)]
    unknown = sorted(set(data) - {*_KEYS, "remark", "methods"})
    if missing or unknown:
        raise PublishedError(f"{path}: missing {missing}, unknown {unknown}")
    made = PublishedMatrix(id=path.stem, **data)
    if made.label not in LABELS:
        raise PublishedError(f"{path}: unknown label {made.label!r}: one of {', '.join(LABELS)}")
    for group, rows in made.groups.items():
        for row, verdict in rows.items():
            if verdict not in made.verdicts:
                raise PublishedError(f"{path}: {group}: {row}: unknown verdict {verdict!r}")
    known = {row for rows in made.groups.values() for row in rows}
    if unknown := sorted(set(made.methods) - known):
        raise PublishedError(f"{path}: methods: {unknown[0]!r} is no row")
    _check_counts(path, made, counts, {one.id: one for one in figures})
    return made


def _check_counts(
    path: Path,
    matrix: PublishedMatrix,
    counts: Mapping[str, Sequence[str]],
    figures: Mapping[str, Figure],
) -> None:
    for id, verdicts in counts.items():
        if id not in figures:
            raise PublishedError(f"{path}: counts: {id!r} is no published figure")
        have = figures[id].value, figures[id].of
        want = matrix.count(*verdicts), matrix.total
        if have != want:
            raise PublishedError(
                f"{path}: counts: {id} has value and of {have}, but the matrix has {want}"
            )
