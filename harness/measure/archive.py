"""Puts a directory of records in order: superseded records into its archive, pytest-benchmark's
files beside their records, and the index.

Nothing is edited, and nothing is lost when it is interrupted: the next time it goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import PathError, RecordError
from harness.failures import typed
from harness.measure import record_digests, results_index
from harness.measure.benchmark_files import divided
from harness.measure.record import RunRecord, find, parse
from harness.measure.record_digests import INDEX, beside
from harness.measure.results_index import Indexed
from harness.measure.storage import replace_atomically, write_atomically


@dataclass(frozen=True)
class Move:
    """A file and where it goes."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Plan:
    """What is to be done to a directory of records.

    `records` has all that can be read, `moves` those that are elsewhere than they belong, `named`
    the files of pytest-benchmark that still have digests for names; `problems` says what is left
    alone.
    """

    results: Path
    records: Sequence[Indexed]
    moves: Sequence[Move]
    named: Sequence[Path]
    problems: Sequence[str]

    @property
    def index(self) -> bytes:
        return results_index.encoded(self.records)

    @property
    def indexed(self) -> bool:
        """Whether the index is right as it is."""
        try:
            return (self.results / INDEX).read_bytes() == self.index
        except OSError:
            return False


def plan(results: Path) -> Plan:
    """What `carry_out` would do. Raises PathError."""
    problems: list[str] = []
    try:
        several = results_index.index(_readable(results, problems))
        named = [file for home in _homes(results) for file in record_digests.named_by_digest(home)]
    except OSError as error:
        raise typed(error) or error from error
    moves = []
    for one in several:
        target = results / one.place
        if target == one.path:
            continue
        if target.exists():
            problems.append(f"{one.path} stays: {target} exists already")
        else:
            moves.append(Move(one.path, target))
    return Plan(results, several, moves, named, problems)


def _homes(results: Path) -> Sequence[Path]:
    """The directories that hold records."""
    return sorted({path.parent for path in find(results)})


def _readable(results: Path, problems: list[str]) -> Iterator[tuple[Path, str, RunRecord]]:
    seen: dict[str, Path] = {}
    for path in find(results):
        try:
            content = path.read_bytes()
            record_digests.check(path, content)
            record = parse(content, str(path))
            first = seen.setdefault(record.run_id, path)
            if first != path:
                raise RecordError(f"{path} is left alone: {first} is of the same run")
            yield path, hashlib.sha256(content).hexdigest(), record
        except (RecordError, RecursionError) as error:
            problems.append(str(error))


def carry_out(plan: Plan) -> Sequence[str]:
    """Put everything in its place. Returns what was left alone, and why.

    Raises PathError or DiskFull.
    """
    left = list(plan.problems)
    try:
        for file in plan.named:
            left += _divide(file, plan.results)
        for move in plan.moves:
            # The digest goes first: a record without it cannot be checked.
            _move(Move(beside(move.source), beside(move.target)))
            _move(move)
        for home in {move.source.parent for move in plan.moves}:
            with contextlib.suppress(OSError):  # it is not empty
                home.rmdir()
        if not plan.indexed:
            replace_atomically(plan.results / INDEX, plan.index)
    except OSError as error:
        raise typed(error) or error from error
    return left


def _divide(file: Path, results: Path) -> Iterator[str]:
    """Replace a file that has its digest for a name by one beside each record that it names."""
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != record_digests.digest_in_name(file):
        yield f"{file} stays: it is not what was written"
        return
    records = {path.name: path for path in find(results) if path.parent.name == file.parent.name}
    try:
        parts = divided(content)
    except ValueError as error:
        yield f"{file} stays: {error}"
        return
    if missing := sorted(parts.keys() - records.keys()):
        yield f"{file} stays: it is about {missing[0]}, which is not here"
        return
    for name, part in parts.items():
        target = beside(records[name])
        if not target.exists():
            write_atomically(target, part)
    file.unlink()


def _move(move: Move) -> None:
    if not move.source.exists():
        return
    if move.target.exists():
        raise PathError(f"{move.source} cannot be moved: {move.target} exists already")
    move.target.parent.mkdir(parents=True, exist_ok=True)
    move.source.rename(move.target)
