"""Checkpoints of kvm-floor on disk: a guest that has started and waits for its first request.

A directory of the cache with one file, the image, and a manifest. A restored guest maps the image
privately; nothing of it depends on the processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.measure.record import Image, Scalar, digest
from harness.sandbox import manifest

SCHEMA = "coppice.kvm-floor/1"
IMAGE = "image"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that `load` has found whole; `id` is the digest of its manifest."""

    image: Path
    id: str
    built_from: Mapping[str, Scalar]

    def as_record(self) -> Image:
        return Image("checkpoint", self.id, self.built_from)


def path_for(cache: Path, built_from: Mapping[str, Scalar]) -> Path:
    return cache / "checkpoints" / manifest.name_of(built_from)


def complete(directory: Path, built_from: Mapping[str, Scalar]) -> None:
    """Add the manifest to a directory that has the image."""
    image = directory / IMAGE
    files = {IMAGE: {"bytes": image.stat().st_size, "sha256": digest(image)}}
    text = manifest.render(SCHEMA, built_from, files)
    (directory / manifest.NAME).write_text(text, encoding="utf-8")


def load(directory: Path, expected: Mapping[str, Scalar]) -> Checkpoint:
    """A checkpoint that must have been built from `expected`; reads all of it, some pages.

    Raises CheckpointCorrupt, CheckpointTruncated or CheckpointForeign.
    """
    try:
        text = (directory / manifest.NAME).read_bytes()
    except OSError as error:
        raise manifest.unreadable(directory, error) from error
    found = manifest.parse(text, directory, SCHEMA, (IMAGE,), expected)
    image = directory / IMAGE
    length, sha256 = found.files[IMAGE]
    manifest.check_length(image, image.stat().st_size if image.exists() else 0, length)
    manifest.check_digest(image, digest(image), sha256)
    return Checkpoint(image, found.sha256, found.built_from)
