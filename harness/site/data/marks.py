"""The marks beside a figure: what has changed since its record was made, and what renews it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from datetime import date

from harness.claims.verdict import Mark
from harness.site.data.record_summary import RecordSummary

OLD_DAYS = 180
"""A record older than this is marked."""


def of(
    summaries: Sequence[RecordSummary],
    rigs: Mapping[str, Sequence[str]],
    patches: Mapping[str, str],
    today: str,
) -> Sequence[Sequence[Mark]]:
    """The marks of each record; the records are sorted oldest first.

    `rigs` has, for each rig, the digests of the file versions that measure the same as today's;
    `patches` the digest of each patch today.
    """
    kernels: dict[str, str] = {}
    images: dict[tuple[Hashable, str], str] = {}
    for one in summaries:
        kernels[one.machine.id] = one.machine.kernel
        for image in one.images:
            images[_guests(one), image.name] = image.sha256

    def changed(one: RecordSummary) -> Iterator[tuple[str, str]]:
        old = age(one.date, today) if today else None
        if old:
            yield "old", old
        if one.rig.sha256 not in rigs.get(one.rig.path, (one.rig.sha256,)):
            yield "rig", "the rig has changed since"
        for patch in one.patches:
            if patch.applied and patches.get(patch.path, patch.sha256) != patch.sha256:
                yield "patch", f"the patch {patch.path} has changed since"
        if kernels[one.machine.id] != one.machine.kernel:
            whose = "the client's machine" if one.endpoint else "the machine"
            yield "kernel", f"{whose} now runs another kernel"
        if any(images[_guests(one), each.name] != each.sha256 for each in one.images):
            yield "image", "the image has changed since"

    return [tuple(Mark(*found, one.task) for found in changed(one)) for one in summaries]


def _guests(one: RecordSummary) -> Hashable:
    """What guests a record is of. Those of another substrate, or with a kernel of choice, have
    images of their own under the same names, and neither replaces the other."""
    substrates = (series.dimensions.get("substrate") for series in one.series)
    return one.machine.id, one.rig.id, one.guest_kernel, frozenset(substrates)


def age(day: str, today: str) -> str | None:
    """Why a record of `day` is too old on `today`, or None if it is not; ISO dates."""
    days = (date.fromisoformat(today) - date.fromisoformat(day)).days
    return f"measured {days} days ago" if days > OLD_DAYS else None
