"""Images that belong on the record of what is being measured, whether its rig names them or not:
how VMMs are confined, for example."""

from __future__ import annotations

from collections.abc import Sequence

from harness.measure.record import Image

_used: dict[str, Image] = {}


def use(image: Image) -> None:
    """Note an image. Cheap enough for a timed path."""
    _used[image.name] = image


def and_used(named: Sequence[Image]) -> Sequence[Image]:
    """What a rig has named, and what was noted since `forget`."""
    names = {image.name for image in named}
    return (*named, *(image for name, image in _used.items() if name not in names))


def forget() -> None:
    """To be called when a rig begins."""
    _used.clear()
