"""Draws each kind of picture: a module has `PICTURE`, `KEY` (how it is read) and `draw`."""

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
    """The picture, so many inches wide; as high as it needs."""
    with matplotlib.rc_context(style.SETTINGS):
        figure = _kinds()[type(picture)].draw(picture, width)
    assert isinstance(figure, Figure)
    return figure


def key(picture: Picture) -> str:
    """How the picture is read."""
    return str(_kinds()[type(picture)].KEY)
