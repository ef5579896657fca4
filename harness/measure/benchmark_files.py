"""Stores what pytest-benchmark has written, a file beside each record, under the record's name.

A session may measure several rigs: its file is divided, so that each record has its own samples
and its digest beside it, and both can be moved together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from harness import strict_json
from harness.measure.record import find
from harness.measure.record_digests import beside
from harness.measure.storage import write_atomically


def divided(content: bytes) -> Mapping[str, bytes]:
    """The part of a pytest-benchmark file about each record, by the record's name.

    A file about one record stays as it is. Raises ValueError if it is not such a file.
    """
    data = strict_json.loads(content)
    by_record: dict[str, list[object]] = {}
    try:
        for one in data["benchmarks"]:
            if name := one["extra_info"].get("record"):
                by_record.setdefault(str(name), []).append(one)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"not a file of pytest-benchmark: {error!r}") from error
    whole = len(data["benchmarks"])
    return {
        # As pytest-benchmark writes it.
        name: content
        if len(several) == whole
        else json.dumps({**data, "benchmarks": several}, indent=4).encode()
        for name, several in by_record.items()
    }


def store(written: Path, results: Path) -> None:
    """Put the parts of a file beside their records in `results`; what is there stays as it is.

    Raises ValueError, DiskFull and PathError.
    """
    parts = divided(written.read_bytes())
    for record in list(find(results)) if parts else ():
        target = beside(record)
        if record.name in parts and not target.exists():
            write_atomically(target, parts[record.name])
