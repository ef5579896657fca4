"""JSON and CSV files: stable bytes for equal data, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence


def as_json(data: Mapping[str, object]) -> bytes:
    """JSON with stable bytes: one key per line, and one list item per line."""
    keys = []
    for key, value in data.items():
        if isinstance(value, list | tuple) and value:
            items = ",\n  ".join(map(_compact, value))
            keys.append(f" {_compact(key)}: [\n  {items}\n ]")
        else:
            keys.append(f" {_compact(key)}: {_compact(value)}")
    # indent= would be many times slower, and some lists have thousands of items.
    return ("{\n" + ",\n".join(keys) + "\n}\n").encode()


_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def as_csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    """CSV with a header; cells that a spreadsheet would take for formulas are quoted."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([harmless(cell) for cell in row])
    return out.getvalue().encode()


def harmless(cell: object) -> object:
    """A cell value that no spreadsheet takes for a formula."""
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{cell}"
    return "" if cell is None else repr(cell) if isinstance(cell, float) else cell
