"""What all plots share: fonts, colours safe for colour blindness, axes, and files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.errors import UsageError
from harness.site.charts.axis import Axis
from harness.site.charts.labels import Sizes

INK, SOFT, GRID, HAIR = "#1a1a1a", "#5c5c5c", "#d4d4d4", "#ececec"
# After Okabe and Ito: distinct in all common kinds of colour blindness, and in grey by lightness.
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
AMBER, SKY = "#e69f00", "#56b4e9"
HUES = (BLUE, GREEN, AMBER, PURPLE, SKY, INK)
"""Colours of curves, each with its own marker and dashes; orange is for published figures."""
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: Sequence[Any] = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)), "-", (0, (5, 1.5)))
OURS, THEIRS, MUTED = BLUE, ORANGE, SOFT

GROUND: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
"""The background of text on lines."""
PIXEL = 0.72
"""Points per pixel of the site's charts, to convert positions given in pixels."""
LETTER = 4.0
"""Width of a small letter in points, rounded up."""

POINT = 1 / 72
SMALL, NORMAL = 6.5, 7.5
SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # part of matplotlib, so the same everywhere
    "font.size": NORMAL,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.5,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "lines.linewidth": 1.0,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # embedded TrueType, as publishers require
    "svg.fonttype": "none",
    "svg.hashsalt": "coppice",
}
FORMATS = ("pdf", "svg", "png")
DPI = 300


@dataclass(frozen=True)
class Metadata:
    """A file's metadata; `runs` are the ids of the runs that it shows."""

    title: str
    description: str
    runs: Sequence[str]

    def of(self, format: str) -> Mapping[str, Any]:
        """The entries in a format's terms, without a date."""
        if format == "pdf":
            return {
                "Title": self.title,
                "Subject": self.description,
                "Keywords": " ".join(self.runs),
                "Creator": "Coppice",
                "CreationDate": None,
            }
        if format == "svg":
            return {
                "Title": self.title,
                "Description": self.description,
                "Keywords": list(self.runs),
                "Creator": "Coppice",
                "Date": None,
            }
        return {
            "Title": self.title,
            "Description": self.description,
            "Source": " ".join(self.runs),
            "Software": "Coppice",
        }


def sizes(points: float) -> Sizes:
    """Sizes of text and marks for harness/site/charts/labels.py; the axes are `points` wide."""
    return Sizes((points / PIXEL,), letter=LETTER / PIXEL, mark=5)


def blank(width: float, height: float) -> Figure:
    """An empty figure; sizes in inches."""
    return Figure(figsize=(width, height), facecolor="white")


def content(figure: Figure, format: str, about: Metadata) -> bytes:
    """The figure as a file; the same bytes for equal figures."""
    if format not in FORMATS:
        raise UsageError(
            f"{format!r} is not a format of charts", hint=f"formats: {', '.join(FORMATS)}"
        )
    out = io.BytesIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(out, format=format, dpi=DPI, metadata=dict(about.of(format)))
    return out.getvalue()


def lane_axes(figure: Figure, top: float, bottom: float, height: float) -> Axes:
    """Axes as wide as the figure, with points as vertical unit, downwards from 0 to `height`.

    `top` and `bottom` are the free points above and below.
    """
    width, whole = (72 * inches for inches in figure.get_size_inches())
    margin = 4 / width
    axes = figure.add_axes((margin, bottom / whole, 1 - 2 * margin, height / whole))
    assert abs(top + height + bottom - whole) < 1e-6
    axes.set_ylim(height, 0)
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def across(axes: Axes, scale: Axis, *, inside: bool = True, margin: float = 0) -> None:
    """Draw a horizontal axis. `inside` keeps the outer labels within the axes; `margin` is a share
    of the axis added on either side, for marks at its ends."""
    _set(axes, scale, "x")
    if scale.log:
        more = (scale.high / scale.low) ** margin
        axes.set_xlim(scale.low / more, scale.high * more)
    axes.grid(axis="x", which="major", color=GRID, linewidth=0.5)
    axes.grid(axis="x", which="minor", color=HAIR, linewidth=0.4)
    labels = axes.get_xticklabels()
    if inside and len(labels) > 1:
        labels[0].set_horizontalalignment("left")
        labels[-1].set_horizontalalignment("right")


def upwards(axes: Axes, scale: Axis) -> None:
    """Draw a vertical axis."""
    _set(axes, scale, "y")
    axes.grid(axis="y", which="major", color=GRID, linewidth=0.5)


def _set(axes: Axes, scale: Axis, name: Literal["x", "y"]) -> None:
    axis = axes.xaxis if name == "x" else axes.yaxis
    getattr(axes, f"set_{name}scale")("log" if scale.log else "linear")
    getattr(axes, f"set_{name}lim")(scale.low, scale.high)
    axis.set_ticks([tick.value for tick in scale.ticks], [tick.label for tick in scale.ticks])
    axis.set_ticks(list(scale.minor), [""] * len(scale.minor), minor=True)
    axes.tick_params(axis=name, which="both", length=0)
    axes.set_axisbelow(True)
