"""The digests of records that stand in the files of pytest-benchmark beside them.

A file of pytest-benchmark names each record of its run with the record's SHA-256, and is itself
named by its own. So a record that was changed, by an editor or by storage, is found out. A record
without such a file, of a run that failed or was interrupted, cannot be checked.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import RecordError

SUFFIX = ".pytest-benchmark.json"
_FACTS = re.compile(rb'\{[^{}]*"record_sha256"[^{}]*\}')
"""The facts about one record; such files have many MB of samples, which are not parsed here."""


@dataclass(frozen=True)
class Witness:
    """What a file of pytest-benchmark says of a record; `intact`: the file has its own digest."""

    sha256: str
    file: Path
    intact: bool


def check(path: Path, content: bytes) -> None:
    """Raise RecordError where a record's content is not what was written."""
    try:
        modified = path.parent.stat().st_mtime_ns
    except OSError:
        return
    witness = _witnesses(path.parent, modified).get(path.name)
    if witness is None or witness.sha256 == hashlib.sha256(content).hexdigest():
        return
    if not witness.intact:
        raise RecordError(
            f"{path} cannot be checked: {witness.file.name}, which has its digest, is damaged",
            hint="restore both from where they were published, or make a new record",
        )
    raise RecordError(
        f"{path} was changed after it was written: {witness.file.name} has another digest of it",
        hint="restore it from where it was published, or make a new record",
    )


@functools.lru_cache(maxsize=64)
def _witnesses(directory: Path, modified_ns: int) -> Mapping[str, Witness]:
    """What the files in a directory say of its records, by name; an intact file counts more."""
    found: dict[str, Witness] = {}
    for file in sorted(directory.glob(f"*{SUFFIX}")):
        try:
            content = file.read_bytes()
        except OSError:
            continue
        intact = hashlib.sha256(content).hexdigest() == file.name.removesuffix(SUFFIX)
        for name, sha256 in _named_in(content):
            if intact or name not in found:
                found[name] = Witness(sha256, file, intact)
    return found


def _named_in(content: bytes) -> list[tuple[str, str]]:
    """(name, SHA-256) of every record that a file of pytest-benchmark names."""
    named = []
    for facts in _FACTS.findall(content):
        try:
            data = json.loads(facts)
            named.append((str(data["record"]), str(data["record_sha256"])))
        except (ValueError, KeyError):
            continue
    return named
