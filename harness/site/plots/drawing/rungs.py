"""Rungs: a row per tier, a bead per rung, on a logarithmic time axis."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.measure.quantity import show
from harness.site.charts import axis
from harness.site.charts.rungs import RungsPicture, Wire
from harness.site.plots import style
from harness.site.plots.style import GROUND, NORMAL, SMALL

PICTURE = RungsPicture
KEY = (
    "Beads: medians of the rungs of the same cold starts, with their 95 % intervals; the number at "
    "the right belongs to the last rung."
)
_ROW, _HEAD, _BOTTOM, _KEY_ROW = 25.0, 11.0, 14.0, 11.0


def draw(picture: RungsPicture, width: float) -> Figure:
    scale = axis.decades(
        [rung.value for wire in picture.wires for rung in wire.rungs.values()], "s"
    )
    height = _ROW * len(picture.wires)
    columns = max(1, min(len(picture.names), int(width / 1.1)))
    top = _KEY_ROW * -(-len(picture.names) // columns) + 4
    figure = style.blank(width, (top + height + _BOTTOM) * style.POINT)
    axes = style.lane_axes(figure, top, _BOTTOM, height)
    style.across(axes, scale)
    beads = [
        Line2D([], [], linestyle="none", marker=style.MARKERS[n], color=style.HUES[n],
               markersize=4.5, label=name)
        for n, name in enumerate(picture.names)
    ]  # fmt: skip
    axes.legend(
        handles=beads, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns,
        borderpad=0, borderaxespad=0.3, handletextpad=0.2, labelspacing=0.3, columnspacing=1.2,
    )  # fmt: skip
    for number, wire in enumerate(picture.wires):
        _wire(axes, wire, picture.names, _ROW * number)
    return figure


def _wire(axes: Axes, wire: Wire, names: Sequence[str], top: float) -> None:
    ends = axes.get_yaxis_transform()
    axes.text(0, top + _HEAD - 3, wire.label, transform=ends, fontsize=NORMAL, bbox=GROUND)
    beads = [(n, wire.rungs[name]) for n, name in enumerate(names) if name in wire.rungs]
    if not beads:
        axes.text(1, top + _HEAD - 3, wire.note or "not measured on this host", transform=ends,
                  ha="right", fontsize=SMALL, color=style.SOFT, bbox=GROUND)  # fmt: skip
        return
    note = f"{wire.note}  " if wire.note else ""
    axes.text(1, top + _HEAD - 3, f"{note}{show(beads[-1][1], 's')}", transform=ends, ha="right",
              fontsize=NORMAL, bbox=GROUND)  # fmt: skip
    y = top + _HEAD + 6
    axes.hlines(y, beads[0][1].value, beads[-1][1].value, color=style.SOFT, linewidth=0.7)
    for number, rung in beads:
        if rung.low is not None and rung.high is not None:
            axes.hlines(y, rung.low, rung.high, color=style.HUES[number], linewidth=2.2, alpha=0.5)
        axes.plot(rung.value, y, style.MARKERS[number], color=style.HUES[number], markersize=4.5,
                  markeredgecolor="white", markeredgewidth=0.4, zorder=3)  # fmt: skip
