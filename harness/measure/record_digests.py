"""The digests that are kept of records, by which a record that was changed is found out.

They are in two places: in the file of pytest-benchmark beside a record, and in the directory's
index. A record that agrees with one of them is what was written. A record of which no digest is
kept, such as one of a run that failed in a directory without an index, cannot be checked.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import paths, strict_json
from harness.errors import RecordError

SUFFIX = ".pytest-benchmark.json"
INDEX = "index.json"
INDEX_SCHEMA = "coppice.results/1"
_RECORD = ".run.json"
_FACTS = re.compile(rb'\{[^{}]*"record_sha256"[^{}]*\}')
"""The facts about one record; such files have many MB of samples, which are not parsed here."""
_BY_DIGEST = re.compile(r"[0-9a-f]{64}" + re.escape(SUFFIX))
"""The names that earlier versions gave these files: their own digests."""


@dataclass(frozen=True)
class Witness:
    """A digest of a record, and the file that has it. `intact`: whether that file is what was
    written; None if that is not known."""

    sha256: str
    file: Path
    intact: bool | None = None


def beside(record: Path) -> Path:
    """The file of pytest-benchmark that belongs to a record."""
    return record.with_name(record.name.removesuffix(_RECORD) + SUFFIX)


def directory_of(record: Path) -> Path:
    """The directory of records that a record's file is in, in a machine's directory or archived."""
    above = record.parent.parent
    return above.parent if above.name == paths.ARCHIVE else above


def check(path: Path, content: bytes) -> None:
    """Raise RecordError where a record's content is not what was written."""
    sha256 = hashlib.sha256(content).hexdigest()
    several = list(_witnesses(path))
    if not several or any(one.sha256 == sha256 for one in several):
        return
    sound = [one for one in several if one.intact is not False]
    if not sound:
        raise RecordError(
            f"{path} cannot be checked: {several[0].file.name}, which has its digest, is damaged",
            hint="restore both from where they were published, or make a new record",
        )
    other = sound[0].file.name
    perhaps = "" if sound[0].intact else f", or {other} was"
    raise RecordError(
        f"{path} was changed after it was written{perhaps}: {other} has another digest of it",
        hint="restore it from where it was published, or make a new record",
    )


def _witnesses(path: Path) -> Iterator[Witness]:
    file = beside(path)
    try:
        content = file.read_bytes()
    except OSError:
        content = b""
    for name, sha256 in named_in(content):
        if name == path.name:
            yield Witness(sha256, file)
    index = directory_of(path) / INDEX
    found = _indexed(index, _modified(index)).get(f"{path.parent.name}/{path.name}")
    if found:
        yield Witness(found, index)
    yield from _by_digest(path.parent, _modified(path.parent)).get(path.name, ())


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=8)
def _indexed(index: Path, modified_ns: int) -> Mapping[str, str]:
    """The digest of each record in an index, by MACHINE/FILE; none if it cannot be read."""
    try:
        data = strict_json.loads(index.read_bytes())
        if data["schema"] != INDEX_SCHEMA:
            return {}
        return {"/".join(row["path"].split("/")[-2:]): row["sha256"] for row in data["records"]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


@functools.lru_cache(maxsize=64)
def _by_digest(directory: Path, modified_ns: int) -> Mapping[str, list[Witness]]:
    """What the files that are named by their digests say of records, by the record's name."""
    found: dict[str, list[Witness]] = {}
    for file in named_by_digest(directory):
        try:
            content = file.read_bytes()
        except OSError:
            continue
        intact = hashlib.sha256(content).hexdigest() == digest_in_name(file)
        for name, sha256 in named_in(content):
            found.setdefault(name, []).append(Witness(sha256, file, intact))
    return found


def named_by_digest(directory: Path) -> list[Path]:
    """The files of pytest-benchmark in a directory that have their own digests for names."""
    return sorted(one for one in directory.glob(f"*{SUFFIX}") if _BY_DIGEST.fullmatch(one.name))


def digest_in_name(file: Path) -> str:
    """The digest that is the name of such a file."""
    return file.name.removesuffix(SUFFIX)


def named_in(content: bytes) -> list[tuple[str, str]]:
    """(name, SHA-256) of every record that a file of pytest-benchmark names."""
    named = []
    for facts in _FACTS.findall(content):
        try:
            data = json.loads(facts)
            named.append((str(data["record"]), str(data["record_sha256"])))
        except (ValueError, KeyError):
            continue
    return named
