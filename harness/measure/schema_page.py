"""The page that describes a run record, made from its schema.

`python -m harness.measure.schema_page > docs/record-schema.md` makes it; a test compares the two.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness import paths

Schema = Mapping[str, Any]

HEAD = """\
# The run record

<!-- Made by `python -m harness.measure.schema_page > docs/record-schema.md`; a test compares. -->

{title}. This page describes every key of schema `{name}`. The schema
itself is [run-1.json](../harness/measure/schema/run-1.json), and each record is checked against it
when it is written and when it is read. No other key is allowed. A record holds plain SI units,
nothing rounded and nothing derived; [reading-records.md](reading-records.md) shows how to load it.

A record is the file `RESULTS/MACHINE/RUN.RIG.run.json`: `machine.id`, `run_id` and `rig.id`. It is
written once and never edited. `coppice archive` moves it to `RESULTS/archive/MACHINE/` once it is
superseded.
"""


@dataclass(frozen=True)
class Key:
    """One row of a table: `type` in JSON's terms; an optional key may be absent."""

    name: str
    type: str
    meaning: str
    optional: bool


def page(schema: Schema) -> str:
    """The whole page. Raises ValueError for a key without a description."""
    lines = [HEAD.format(title=schema["title"], name=schema["properties"]["schema"]["const"])]
    lines += ["## At the top", "", *_table(schema, schema)]
    for path, described in _objects(schema, schema, ""):
        lines += ["", f"## {path}", "", _sentence(described), "", *_table(described, schema)]
    return "\n".join(lines) + "\n"


def _objects(of: Schema, root: Schema, prefix: str) -> Iterator[tuple[str, Schema]]:
    """Every object with keys of its own below `of`, outermost first, and how a reader names it."""
    for name, value in of["properties"].items():
        path = f"{prefix}{name}"
        item = value.get("items", {})
        if "properties" in value:
            yield path, value
            yield from _objects(value, root, f"{path}.")
        elif "properties" in item:
            about = f"each element of the array: {_described(path, value, root)}"
            yield f"{path}[]", {**item, "description": about}
            yield from _objects(item, root, f"{path}[].")


def _table(of: Schema, root: Schema) -> Iterator[str]:
    yield "| key | type | meaning |"
    yield "|---|---|---|"
    for key in _keys(of, root):
        name = f"`{key.name}`" + (" (optional)" if key.optional else "")
        yield f"| {name} | {key.type} | {key.meaning} |"


def _keys(of: Schema, root: Schema) -> Iterator[Key]:
    for name, value in of["properties"].items():
        meaning = _described(name, value, root).replace("|", "\\|")
        yield Key(name, _type(value, root), meaning, name not in of.get("required", ()))


def _described(name: str, value: Schema, root: Schema) -> str:
    found = value.get("description") or _resolved(value, root).get("description")
    if not found:
        raise ValueError(f"{name} has no description in {paths.RECORD_SCHEMA.name}")
    return str(found)


def _resolved(value: Schema, root: Schema) -> Schema:
    """A definition in place of a reference to it."""
    if "$ref" not in value:
        return value
    found: Schema = root["definitions"][value["$ref"].rpartition("/")[2]]
    return found


def _type(value: Schema, root: Schema) -> str:
    value = _resolved(value, root)
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    named = value["type"]
    text = " or ".join([named] if isinstance(named, str) else named)
    if "items" in value:
        return f"array of {_plural(value['items'], root)}"
    if isinstance(value.get("additionalProperties"), dict):
        return f"object of {_plural(value['additionalProperties'], root)}"
    if "minimum" in value:
        text += f", at least {value['minimum']}"
    if "pattern" in value and value["pattern"] != "\\S":
        text += f", `{value['pattern']}`"
    return text


def _plural(value: Schema, root: Schema) -> str:
    resolved = _resolved(value, root)
    if isinstance(resolved["type"], list):
        return "plain values"
    return f"{resolved['type']}s"


def _sentence(described: Schema) -> str:
    text = str(described["description"])
    return f"{text[0].upper()}{text[1:]}."


def main() -> int:
    sys.stdout.write(page(json.loads(paths.RECORD_SCHEMA.read_text(encoding="utf-8"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
