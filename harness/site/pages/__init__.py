"""The pages: one module each, which declares PAGE (see harness/site/page.py)."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

from harness.errors import CoppiceError
from harness.site.page import Page


def discover() -> Sequence[Page]:
    """Every page, in the order of the navigation, then by module name."""
    found: list[tuple[int, str, Page]] = []
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        page = getattr(module, "PAGE", None)
        if not isinstance(page, Page):
            raise CoppiceError(f"{module.__file__} has no PAGE = Page(...)")
        found.append((page.nav.order if page.nav else 1000, module_info.name, page))
    return [page for _, _, page in sorted(found, key=lambda item: item[:2])]
