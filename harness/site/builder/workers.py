"""Makes pages, one by one or by several processes, and tells where they link to."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness.claims.claims import Claim
from harness.site.builder import check
from harness.site.builder.manifest import Marker
from harness.site.builder.output import Directory
from harness.site.builder.page import Asset, Document, Group, Page
from harness.site.builder.renderer import Renderer
from harness.site.builder.run_page import files_of_run
from harness.site.data import record_summary
from harness.site.data.corpus import Corpus, Entry, Place, Problem, read

FEW = 24
"""Things to make for which a second process is not worth its start."""
_FIXED = frozenset(("validity", "figures", "repeat", "clock", "machine", "inputs", "main"))


@dataclass
class Made:
    """Files, the ids of each page among them, and where they link to: a file or `file#anchor`, by
    a page that does."""

    files: list[str] = field(default_factory=list)
    ids: dict[str, list[str]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def __iadd__(self, other: Made) -> Made:
        self.files += other.files
        self.ids.update(other.ids)
        self.links.update(other.links)
        return self


@dataclass
class Whole:
    """What a page module gave: what stands alone, and its groups by name.

    `groups` has what is to be remembered of those that were made, `kept` names the others.
    """

    alone: Made = field(default_factory=Made)
    groups: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Maker:
    """Makes files in a directory; `before` is what the site that is there was made of."""

    directory: Directory
    render: Renderer
    before: Marker
    claims: Sequence[Claim] = ()

    def items(self, several: Iterable[Document | Asset]) -> Made:
        """Write files; each page's ids are its own once."""
        made = Made()
        for one in several:
            content = one.content if isinstance(one, Asset) else self.render(one)
            self.directory.write(one.path, content)
            made.files.append(one.path)
            if one.path.endswith(".html"):
                names = check.names(content.decode())
                check.refuse(check.twice(one.path, names))
                made.ids[one.path] = list(names.ids)
                for _, target, anchor in check.targets(one.path, names):
                    made.links[f"{target}#{anchor}" if anchor else target] = one.path
        return made

    def run(self, place: Place) -> Problem | tuple[list[Any], record_summary.Shared, Made]:
        """Read one record and write its files. What they link to of their own is checked here."""
        found = read(place)
        if isinstance(found, Problem):
            return found
        content, record = found
        entry = Entry(record_summary.of(record, hashlib.sha256(content).hexdigest()), place)
        entry.__dict__["record"] = record
        made = self.items(files_of_run(entry, content, self.claims))
        missing = anchors(entry.brief) - set(made.ids[entry.page])
        if missing:
            raise check.SiteError(f"{entry.page} has no {', '.join(sorted(missing)[:3])}")
        own = set(made.files)
        inner = {link: page for link, page in made.links.items() if link.partition("#")[0] in own}
        check.refuse(check.dangling(inner, own, {path: set(ids) for path, ids in made.ids.items()}))
        links = {link: page for link, page in made.links.items() if link not in inner}
        shared: record_summary.Shared = {}
        return record_summary.to_json(entry.brief, shared), shared, Made(made.files, {}, links)

    def group(self, one: Group) -> Mapping[str, Any]:
        """Write a group's files; what is remembered of it."""
        made = self.items(one.make())
        key = key_of(one)
        return {"key": key, "files": made.files, "ids": made.ids, "links": sorted(made.links)}

    def page(self, found: Corpus, jobs: int, page: Page) -> Whole | None:
        """Everything of a page module. Asked for 0 `jobs`, one of several processes that make pages
        gives None where so many groups have changed that they had better share them."""
        whole = Whole()
        changed: list[Group] = []
        for item in page.render(found):
            if not isinstance(item, Group):
                whole.alone += self.items([item])
                continue
            known = self.before.same(item.name, key_of(item))
            if known and self.directory.keeps(known["files"]):
                whole.kept.append(item.name)
            else:
                changed.append(item)
        if not jobs and len(changed) >= FEW:
            return None
        work = spread(self.group, changed, jobs or 1, FEW)
        for group, known in zip(changed, work, strict=True):
            whole.groups[group.name] = known
        return whole


def key_of(group: Group) -> str:
    """A digest of what a group is made of."""
    return hashlib.sha256("\n".join(group.inputs).encode()).hexdigest()


def anchors(one: record_summary.Brief) -> frozenset[str]:
    """The ids that a run's page has for others to lead to."""
    found = set(_FIXED)
    for line in one.lines:
        found.add(line.anchor)
        found.update(f"{line.anchor}.{name}" for name in _told(one, line))
    return frozenset(found)


def has_anchor(one: record_summary.Brief, id: str) -> bool:
    """Whether it is one of them, without making them all."""
    if id in _FIXED:
        return True
    number, _, name = id.removeprefix("/series/").partition(".")
    if not id.startswith("/series/") or not number.isdecimal() or int(number) >= len(one.lines):
        return False
    return not name or name in _told(one, one.lines[int(number)])


def _told(one: record_summary.Brief, line: record_summary.Line) -> Sequence[str]:
    """The statistics of a series that its run's page has a cell for."""
    withheld = one.function_only and line.unit != record_summary.COUNTED
    return ("p50",) if withheld else line.statistics


T = TypeVar("T")
R = TypeVar("R")
_WORK: tuple[Callable[[Any], Any], Sequence[Any]] | None = None


def processes(asked: int) -> int:
    """How many processes make pages: so many, or one for each processor."""
    return asked or min(os.cpu_count() or 1, 8)


def spread(
    work: Callable[[T], R], items: Sequence[T], jobs: int, few: int, chunk: int = 64
) -> Iterator[R]:
    """`work` of each item, in order; by forked processes where there are not `few`.

    What is to be done is inherited by the fork, so that neither it nor the items need be sent.
    """
    if len(items) < few or jobs == 1:
        yield from map(work, items)
        return
    global _WORK
    _WORK = (work, items)
    try:
        with multiprocessing.get_context("fork").Pool(jobs) as pool:
            size = max(1, min(chunk, len(items) // (jobs * 4)))
            yield from pool.imap(_nth, range(len(items)), chunksize=size)
    finally:
        _WORK = None


def _nth(number: int) -> Any:
    assert _WORK
    work, items = _WORK
    return work(items[number])
