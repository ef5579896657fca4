"""Figures that others publish: the model of results/published/*.yaml and its checks.

One file per publisher::

    publisher: Coppice
    defaults: {when: "2026", label: vendor-measured, ...}   # for every figure below
    figures:
      - id: coppice.bhyve-full.cc1
        as_written: 3 906 ms     # how the source writes it: that is what pages show
        value: 3.906             # the same in plain SI, seconds or bytes; `unit` says which

`value` and `as_written` are checked against each other, so that a typing error in either is found.

A figure that its publisher has taken back stays in its file and is marked wherever it stands::

        withdrawn: {when: "2026-07-09", by: mitos, source: https://..., why: ..., replaced_by: id}

`superseded_by` names a newer figure of the same thing, if the old one was right in its time.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from harness import paths
from harness.errors import CoppiceError

SAFE: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Loads plain data only; ten times as fast if libyaml is installed."""

LABELS = {
    "advertised": "stated by the vendor, without a repeatable method",
    "vendor-measured": "measured by the vendor, with a stated method",
    "third-party": "measured by another party",
}
STATES = {
    "withdrawn": "its publisher has since published that the figure does not hold",
    "superseded": "right in its time; its publisher has a newer figure of the same thing",
}
UNITS = ("s", "bytes", "1", "bytes/s", "1/s")
CLOCKS_FILE = paths.CLOCKS

_SCALE: Mapping[str, tuple[float, str]] = {
    "": (1, "1"),
    "%": (0.01, "1"),
    "×": (1, "1"),
    "ns": (1e-9, "s"),
    "µs": (1e-6, "s"),
    "ms": (1e-3, "s"),
    "s": (1, "s"),
    "min": (60, "s"),
    "KB": (1e3, "bytes"),
    "MB": (1e6, "bytes"),
    "KiB": (2**10, "bytes"),
    "MiB": (2**20, "bytes"),
    "GiB": (2**30, "bytes"),
    "Gbit/s": (1e9 / 8, "bytes/s"),
    "GiB/s": (2**30, "bytes/s"),
    "/s": (1, "1/s"),
    "k/s": (1e3, "1/s"),
    "M/s": (1e6, "1/s"),
}
_NUMBER = r"\d+(?: \d{3})*(?:\.\d+)?"
_WRITTEN = re.compile(
    rf"(?P<bound>[<>≤≥~+]\s?)?(?P<low>{_NUMBER})(?:–(?P<high>{_NUMBER})|/(?P<of>{_NUMBER}))?"
    r"(?: ?(?P<unit>[A-Za-zµ%×/]+))?"
)
_WHEN = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?|unknown")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_ID = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")


class PublishedError(CoppiceError):
    """An invalid file under results/published/."""

    exit_code = 65


@dataclass(frozen=True)
class PublishedClock:
    """How figures of one clock were measured; `ours` is our nearest rung or metric."""

    id: str
    kind: str
    title: str
    start: str
    stop: str
    ours: str | None


@dataclass(frozen=True)
class Withdrawn:
    """When, by whom and where a figure was taken back, why, and the figure that replaces it.

    A publisher withdraws a figure by publishing that it does not hold.
    """

    when: str
    by: str
    source: str
    why: str
    replaced_by: str = ""


@dataclass(frozen=True)
class Figure:
    """One published figure. `value` (and `upper`, for a range) is in `unit`; None: no number."""

    id: str
    publisher: str
    topic: str
    subject: str
    what: str
    as_written: str
    unit: str
    statistic: str
    when: str
    clock: str
    label: str
    source: str
    value: float | None = None
    upper: float | None = None
    of: float | None = None
    partial: int | None = None
    """How many more its source calls partial, of a count of what works."""
    concurrency: int | None = None
    conditions: str = ""
    when_note: str = ""
    remark: str = ""
    dimensions: Mapping[str, Any] = field(default_factory=dict)
    withdrawn: Withdrawn | None = None
    superseded_by: str = ""

    @property
    def state(self) -> str:
        """ "withdrawn", "superseded", or empty for a figure that stands."""
        return "withdrawn" if self.withdrawn else "superseded" if self.superseded_by else ""

    @property
    def replaced_by(self) -> str:
        """The id of the figure that stands in this one's place; empty if there is none."""
        return self.withdrawn.replaced_by if self.withdrawn else self.superseded_by

    @property
    def whole(self) -> str:
        """As its source writes it, with the number that it calls partial."""
        return f"{self.as_written}, {self.partial} partial" if self.partial else self.as_written

    @property
    def marked(self) -> str:
        """As its source writes it, and in brackets its state: for text and drawings."""
        return f"{self.whole} ({self.state})" if self.state else self.whole


@dataclass(frozen=True)
class Quantity:
    """The value of `as_written`, in SI units."""

    low: float
    high: float | None
    of: float | None
    unit: str


_FIELDS = {one.name for one in fields(Figure)}
_REQUIRED = (
    "id",
    "topic",
    "subject",
    "what",
    "as_written",
    "unit",
    "statistic",
    "when",
    "clock",
    "label",
    "source",
)


def quantity(written: str) -> Quantity | None:
    """Parse text such as "~26 MiB", "6–16 ms", "9/17"; None if it has no digit.

    Raises ValueError if it has a digit but another form.
    """
    if not any(sign.isdigit() for sign in written):
        return None
    match = _WRITTEN.fullmatch(written)
    if not match or (match["unit"] or "") not in _SCALE:
        raise ValueError(f"cannot read {written!r} as a quantity")
    scale, unit = _SCALE[match["unit"] or ""]

    def plain(text: str | None) -> float | None:
        return None if text is None else float(text.replace(" ", "")) * scale

    low = plain(match["low"])
    assert low is not None
    return Quantity(low, plain(match["high"]), plain(match["of"]), unit)


def written_unit(written: str) -> tuple[float, str] | None:
    """The size and name of the unit that a figure is written in; None if it has none."""
    match = _WRITTEN.fullmatch(written)
    name = match["unit"] if match else None
    return (_SCALE[name][0], name) if name and name in _SCALE else None


@functools.cache
def clocks() -> Mapping[str, PublishedClock]:
    """Every clock that a published figure may name, by id."""
    found = yaml.safe_load(CLOCKS_FILE.read_text(encoding="utf-8"))
    return {name: PublishedClock(id=name, **facts) for name, facts in found.items()}


def load(directory: Path) -> Sequence[Figure]:
    """Every figure under `directory`, file by file, in order.

    Raises PublishedError, which names the file and the figure's id.
    """
    figures: list[Figure] = []
    seen: dict[str, Path] = {}
    for path in sorted(directory.glob("*.yaml")):
        for one in _load_file(path):
            if one.id in seen:
                raise PublishedError(f"{path}: {one.id}: duplicate id, also in {seen[one.id]}")
            seen[one.id] = path
            figures.append(one)
    _check_replacements(figures, seen)
    return figures


def _check_replacements(figures: Sequence[Figure], files: Mapping[str, Path]) -> None:
    """Raise unless every replacement exists, stands, and measures in the same unit."""
    known = {one.id: one for one in figures}
    for one in figures:
        if not one.replaced_by:
            continue
        name = f"{files[one.id]}: {one.id}"
        other = known.get(one.replaced_by)
        if other is None:
            raise PublishedError(f"{name}: replaced by {one.replaced_by!r}, which is no figure")
        if other.state:
            raise PublishedError(f"{name}: replaced by {other.id}, which is {other.state} itself")
        if other.unit != one.unit:
            raise PublishedError(f"{name}: replaced by {other.id}, which is in {other.unit}")


def _load_file(path: Path) -> Sequence[Figure]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), SAFE)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PublishedError(f"{path} is not YAML: {error}") from error
    if not isinstance(data, dict) or not {"publisher", "figures"} <= set(data):
        raise PublishedError(f"{path} must be a mapping with `publisher` and `figures`")
    if not isinstance(data["figures"], list):
        raise PublishedError(f"{path}: `figures` must be a list")
    defaults = data.get("defaults") or {}
    found = []
    for number, one in enumerate(data["figures"]):
        if not isinstance(one, dict):
            raise PublishedError(f"{path}: figure {number} must be a mapping")
        facts = {"publisher": data["publisher"], "subject": data["publisher"], **defaults, **one}
        name = f"{path}: {facts.get('id', f'figure {number} (without id)')}"
        found.append(_figure(facts, name))
    return found


def _figure(facts: Mapping[str, Any], name: str) -> Figure:
    missing = [key for key in _REQUIRED if not facts.get(key)]
    if missing:
        raise PublishedError(f"{name}: {', '.join(missing)} missing")
    unknown = sorted(set(facts) - _FIELDS)
    if unknown:
        raise PublishedError(f"{name}: unknown key {', '.join(unknown)}")
    not_text = [key for key in _REQUIRED if not isinstance(facts[key], str)]
    if not_text:
        raise PublishedError(f"{name}: {', '.join(not_text)} must be text (put it in quotes)")
    one = Figure(**{**facts, "withdrawn": _withdrawn(facts.get("withdrawn"), name)})
    if one.withdrawn and one.superseded_by:
        raise PublishedError(f"{name}: withdrawn figures name their replacement in `withdrawn`")
    if not _ID.fullmatch(one.id):
        raise PublishedError(f"{name}: an id must be lower-case words joined by dots and hyphens")
    if one.clock not in clocks():
        raise PublishedError(
            f"{name}: unknown clock {one.clock!r}",
            hint=f"one of {', '.join(clocks())}, or add a new one to {CLOCKS_FILE.name}",
        )
    if one.label not in LABELS:
        raise PublishedError(f"{name}: unknown label {one.label!r}: one of {', '.join(LABELS)}")
    if one.unit not in UNITS:
        raise PublishedError(f"{name}: unknown unit {one.unit!r}: one of {', '.join(UNITS)}")
    if not _WHEN.fullmatch(one.when):
        raise PublishedError(f"{name}: when must be a date, a year or unknown, not {one.when!r}")
    if not one.source.startswith("https://"):
        raise PublishedError(f"{name}: source must be an https address, not {one.source!r}")
    _agrees(one, name)
    return one


def _withdrawn(facts: Any, name: str) -> Withdrawn | None:
    if facts is None:
        return None
    if not isinstance(facts, dict) or not all(isinstance(one, str) for one in facts.values()):
        raise PublishedError(f"{name}: `withdrawn` must be a mapping of texts")
    missing = [key for key in ("when", "by", "source", "why") if not facts.get(key)]
    unknown = sorted(set(facts) - {one.name for one in fields(Withdrawn)})
    if missing or unknown:
        raise PublishedError(f"{name}: withdrawn: missing {missing}, unknown {unknown}")
    found = Withdrawn(**facts)
    if not _DAY.fullmatch(found.when):
        raise PublishedError(f"{name}: withdrawn: when must be a day, not {found.when!r}")
    if not found.source.startswith("https://"):
        raise PublishedError(f"{name}: withdrawn: source must be an https address")
    return found


def _agrees(one: Figure, name: str) -> None:
    """Raise unless value, upper, of and unit agree with as_written."""
    try:
        read = quantity(one.as_written)
    except ValueError as error:
        raise PublishedError(f"{name}: {error}") from error
    if read is None:
        if one.value is not None:
            raise PublishedError(f"{name}: value given, but no number in {one.as_written!r}")
        return
    if read.unit != one.unit:
        raise PublishedError(f"{name}: {one.as_written!r} is in {read.unit}, not {one.unit}")
    for key, want, have in (
        ("value", read.low, one.value),
        ("upper", read.high, one.upper),
        ("of", read.of, one.of),
    ):
        same = want is have is None or (
            want is not None
            and isinstance(have, int | float)
            and not isinstance(have, bool)
            and math.isclose(want, have, rel_tol=1e-6, abs_tol=1e-15)
        )
        if not same:
            raise PublishedError(
                f"{name}: {one.as_written!r} means {key} {want}, but the file says {have}"
            )
