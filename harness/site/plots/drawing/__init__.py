"""Draws each kind of picture: its module has `PICTURE`, `KEY` (how to read it) and `draw`."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType

import matplotlib
from matplotlib.figure import Figure

from harness.site.charts.chart import Picture
from harness.site.plots import style


@functools.cache
def _kinds() -> Mapping[type, ModuleType]:
    modules = [
        importlib.import_module(f"{__name__}.{found.name}")
        for found in pkgutil.iter_modules(__path__)
    ]
    return {module.PICTURE: module for module in modules}


def draw(picture: Picture, width: float) -> Figure:
    """The picture, `width` inches wide and as high as necessary."""
    with matplotlib.rc_context(style.SETTINGS):
        figure = _kinds()[type(picture)].draw(picture, width)
    assert isinstance(figure, Figure)
    return figure


def key(picture: Picture) -> str:
    """How to read the picture."""
    return str(_kinds()[type(picture)].KEY)
