"""What a page module declares: its place in the navigation, and the files it yields.

A module in harness/site/pages/ has one `PAGE = Page(...)`. Its function yields documents (a
template and its context), assets (plain bytes), and groups of these that are made only if their
inputs have changed. Adding a page means adding a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness.site.data.addresses import relative
from harness.site.data.corpus import Corpus


@dataclass(frozen=True)
class Nav:
    """A place in the navigation, sorted by `order`; `foot` puts it in the footer."""

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

    rooted: str = ""
    """The path of the site's root, for a page that a server shows at any address."""

    def link(self, target: str) -> str:
        """The address of another file of the site, as seen from this one."""
        return f"{self.rooted}{target}" if self.rooted else relative(self.path, target)


@dataclass(frozen=True)
class Asset:
    path: str
    content: bytes


@dataclass(frozen=True)
class Group:
    """Files that depend only on `inputs` and the code; `make` is called if these have changed."""

    name: str
    inputs: Sequence[str]
    make: Callable[[], Iterator[Document | Asset]]


Item = Document | Asset | Group


@dataclass(frozen=True)
class Page:
    """One kind of page: how to render it from the corpus, and its place in the navigation, if any.

    `long` marks a page that takes long if there are many records.
    """

    render: Callable[[Corpus], Iterator[Item]]
    nav: Nav | None = None
    long: bool = False
