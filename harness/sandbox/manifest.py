"""The manifest of a checkpoint: what it was built from, and the size and digest of each file.

A checkpoint is named by the digest of what it was built from (`name_of`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness import strict_json
from harness.errors import CheckpointCorrupt, CheckpointForeign, CheckpointTruncated
from harness.measure.record import Scalar

NAME = "manifest.json"
HINT = "remove it and run again: the checkpoint is then built anew"


@dataclass(frozen=True)
class Manifest:
    """A parsed manifest. `files` maps each file's name to its length in bytes and its SHA-256;
    `observed` is what the saved guest said of itself."""

    sha256: str
    built_from: Mapping[str, Scalar]
    files: Mapping[str, tuple[int, str]]
    observed: Mapping[str, Scalar]
    processor: Mapping[str, Scalar]
    """What the guest saw of its processor, and who showed it; empty where it was not recorded."""


def name_of(built_from: Mapping[str, Scalar]) -> str:
    return hashlib.sha256(json.dumps(dict(built_from), sort_keys=True).encode()).hexdigest()


def render(
    schema: str,
    built_from: Mapping[str, Scalar],
    files: Mapping[str, Any],
    observed: Mapping[str, Scalar] | None = None,
    processor: Mapping[str, Scalar] | None = None,
) -> str:
    """A manifest as JSON; `files` maps each name to an object with `bytes` and `sha256`."""
    manifest: dict[str, Any] = {
        "schema": schema,
        "built_from": dict(built_from),
        "files": files,
        "observed": dict(observed or {}),
    }
    if processor:
        manifest["processor"] = dict(processor)
    return json.dumps(manifest, indent=1, sort_keys=True)


def unreadable(directory: object, error: Exception) -> CheckpointCorrupt:
    return CheckpointCorrupt(f"{directory} has no readable manifest: {error}", hint=HINT)


def parse(
    text: bytes,
    directory: object,
    schema: str,
    names: Iterable[str],
    expected: Mapping[str, Scalar],
    check_processor: Callable[[Mapping[str, Scalar]], None] = lambda seen: None,
) -> Manifest:
    """Parse a manifest that must list the files `names` and have been built from `expected`.

    `check_processor` raises CheckpointForeign for a processor that is not this one. `directory` is
    named in errors. Raises CheckpointCorrupt, CheckpointForeign.
    """
    try:
        data = strict_json.loads(text)
        found, built_from = data["schema"], dict(data["built_from"].items())
        observed = dict(data.get("observed", {}).items())
        entries = {name: data["files"][name] for name in names}
        files = {
            name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in entries.items()
        }
        processor = dict(data.get("processor", {}).items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(directory, error) from error
    if found != schema:
        raise CheckpointForeign(f"{directory} has schema {found!r}, not {schema!r}", hint=HINT)
    check_processor(processor)
    for key in sorted({*built_from, *expected}):
        if built_from.get(key) != expected.get(key):
            raise CheckpointForeign(
                f"{directory} was made with {key} = {built_from.get(key)!r}, "
                f"this host has {expected.get(key)!r}",
                hint=HINT,
            )
    return Manifest(hashlib.sha256(text).hexdigest(), built_from, files, observed, processor)


def check_length(path: object, length: int, expected: int) -> None:
    """Raise CheckpointTruncated unless a file has its length: compare it before the digest."""
    if length != expected:
        raise CheckpointTruncated(f"{path} has {length} bytes of {expected}", hint=HINT)


def check_digest(path: object, sha256: str, expected: str) -> None:
    """Raise CheckpointCorrupt unless a file has its digest."""
    if sha256 != expected:
        raise CheckpointCorrupt(f"{path} is not what was written: its digest differs", hint=HINT)
