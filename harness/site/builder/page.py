"""What a page module declares.

A module in harness/site/pages/ holds one `PAGE = Page(...)`. Its function yields documents
(a template and what it is given), assets (bytes as they are), and groups of these that are made
only when what they are made of has changed. Navigation is made of the pages that declare a place in
it; adding a page is adding a file.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness.errors import CoppiceError
from harness.site.data.corpus import Corpus


@dataclass(frozen=True)
class Nav:
    """A place in the navigation: `order` sorts, lower first; `foot` puts it below the page."""

    label: str
    path: str
    order: int
    foot: bool = False


@dataclass(frozen=True)
class Document:
    """One HTML file: `path` below the site's root, `template` below site/templates/."""

    path: str
    template: str
    title: str
    description: str
    context: Mapping[str, object] = field(default_factory=dict)

    def link(self, target: str) -> str:
        """The address of another file of the site, as seen from this one."""
        return relative(self.path, target)


@dataclass(frozen=True)
class Asset:
    path: str
    content: bytes


@dataclass(frozen=True)
class Group:
    """Files that depend on `inputs` and the code alone; `make` is called when they changed."""

    name: str
    inputs: Sequence[str]
    make: Callable[[], Iterator[Document | Asset]]


Item = Document | Asset | Group


@dataclass(frozen=True)
class Page:
    """One kind of page: what it renders of the corpus, and whether it is in the navigation.

    `long` says that it takes long where there are many records.
    """

    render: Callable[[Corpus], Iterator[Item]]
    nav: Nav | None = None
    long: bool = False


@functools.lru_cache(maxsize=65536)
def relative(here: str, target: str) -> str:
    """The address of `target` as seen from the document `here`, both below the root."""
    directories, parts = here.split("/")[:-1], target.split("/")
    same = 0
    while same < len(directories) and same < len(parts) - 1 and directories[same] == parts[same]:
        same += 1
    return "../" * (len(directories) - same) + "/".join(parts[same:])


def discover() -> Sequence[Page]:
    """Every page module, by the order of its navigation and then by name."""
    from harness.site import pages

    found: list[tuple[int, str, Page]] = []
    for one in pkgutil.iter_modules(pages.__path__):
        module = importlib.import_module(f"{pages.__name__}.{one.name}")
        page = getattr(module, "PAGE", None)
        if not isinstance(page, Page):
            raise CoppiceError(f"{module.__file__} has no PAGE = Page(...)")
        found.append((page.nav.order if page.nav else 1000, one.name, page))
    return [page for _, _, page in sorted(found, key=lambda item: item[:2])]
