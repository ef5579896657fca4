"""Makes pages, in one process or several, and reports their links."""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness import interrupts
from harness.claims.claims import Claim
from harness.errors import SiteError
from harness.host.cpus import usable
from harness.site.builder import check, later, tables
from harness.site.builder.manifest import Manifest
from harness.site.builder.output import Directory
from harness.site.builder.renderer import Renderer
from harness.site.builder.run_page import files_of_run
from harness.site.data import record_summary
from harness.site.data.corpus import Corpus, Place, Problem, RecordEntry, read
from harness.site.page import Asset, Document, Group, Page

FEW = 24
"""The fewest items for which a second process is worth starting."""
_FIXED = frozenset(("validity", "later", "figures", "repeat", "clock", "machine", "inputs", "main"))


@dataclass
class Written:
    """Written files, the ids of each page, and the links: a file or `file#anchor`, mapped to a page
    that links to it."""

    files: list[str] = field(default_factory=list)
    ids: dict[str, list[str]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def __iadd__(self, other: Written) -> Written:
        self.files += other.files
        self.ids.update(other.ids)
        self.links.update(other.links)
        return self


@dataclass
class PageOutput:
    """What a page module yielded: standalone files, and its groups by name.

    `groups` has what to remember of groups that were made, `kept` names the others.
    """

    alone: Written = field(default_factory=Written)
    groups: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PageWriter:
    """Writes files to a directory; `before` is the manifest of the existing site."""

    directory: Directory
    render: Renderer
    before: Manifest
    claims: Sequence[Claim] = ()

    def items(self, several: Iterable[Document | Asset]) -> Written:
        """Write files; ids must be unique within a page."""
        made = Written()
        for one in several:
            if isinstance(one, Asset):
                content = one.content
            else:
                content, files = tables.finish(one.path, self.render(one))
                for path, file in files.items():
                    self.directory.write(path, file)
                    made.files.append(path)
            self.directory.write(one.path, content)
            made.files.append(one.path)
            if one.path.endswith(".html"):
                names = check.names(content.decode())
                check.refuse(check.twice(one.path, names))
                made.ids[one.path] = list(names.ids)
                for _, target, anchor in check.targets(one.path, names):
                    made.links[f"{target}#{anchor}" if anchor else target] = one.path
        return made

    def run(self, place: Place) -> Problem | tuple[list[Any], record_summary.Shared, Written]:
        """Read one record and write its files. Links among these files are checked here."""
        found = read(place)
        if isinstance(found, Problem):
            return found
        content, record = found
        sha256 = hashlib.sha256(content).hexdigest()
        entry = RecordEntry(record_summary.summarise(record, sha256), place)
        entry.__dict__["record"] = record
        made = self.items(files_of_run(entry, content, self.claims))
        missing = anchors(entry.summary) - set(made.ids[entry.page])
        if missing:
            raise SiteError(f"{entry.page} has no {', '.join(sorted(missing)[:3])}")
        own = set(made.files)
        inner = {link: page for link, page in made.links.items() if link.partition("#")[0] in own}
        check.refuse(check.dangling(inner, own, {path: set(ids) for path, ids in made.ids.items()}))
        links = {link: page for link, page in made.links.items() if link not in inner}
        shared: record_summary.Shared = {}
        return record_summary.to_json(entry.summary, shared), shared, Written(made.files, {}, links)

    def later(self, changed: tuple[RecordEntry, str]) -> None:
        """Put into a run's page what it says of later ones."""
        entry, paragraph = changed
        page = later.within(self.directory.read(entry.page), paragraph, entry.page)
        self.directory.write(entry.page, page)

    def group(self, one: Group) -> Mapping[str, Any]:
        """Write a group's files; returns what to remember of it."""
        made = self.items(one.make())
        key = key_of(one)
        return {"key": key, "files": made.files, "ids": made.ids, "links": sorted(made.links)}

    def page(self, found: Corpus, jobs: int, page: Page) -> PageOutput | None:
        """Write everything of a page module.

        With `jobs` 0, this is one of several processes that make pages. It returns None if so many
        groups have changed that all processes should share them."""
        whole = PageOutput()
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
    """A digest of a group's inputs."""
    return hashlib.sha256("\n".join(group.inputs).encode()).hexdigest()


def anchors(one: record_summary.RecordSummary) -> frozenset[str]:
    """The ids of a run's page that other pages may link to."""
    found = set(_FIXED)
    for series in one.series:
        found.add(series.anchor)
        found.update(f"{series.anchor}.{name}" for name in _shown_statistics(one, series))
    return frozenset(found)


def has_anchor(one: record_summary.RecordSummary, id: str) -> bool:
    """Whether `id` is one of `anchors`, without making them all."""
    if id in _FIXED:
        return True
    number, _, name = id.removeprefix("/series/").partition(".")
    if not id.startswith("/series/") or not number.isdecimal() or int(number) >= len(one.series):
        return False
    return not name or name in _shown_statistics(one, one.series[int(number)])


def _shown_statistics(
    one: record_summary.RecordSummary, series: record_summary.SeriesSummary
) -> Sequence[str]:
    """The statistics of a series for which its run's page has a cell."""
    withheld = one.proves(series) and series.unit != record_summary.COUNTED
    return ("p50",) if withheld else series.statistics


T = TypeVar("T")
R = TypeVar("R")
_WORK: tuple[Callable[[Any], Any], Sequence[Any]] | None = None


def processes(asked: int) -> int:
    """How many processes make pages: as requested, or one per CPU."""
    return asked or min(usable(), 8)


def spread(
    work: Callable[[T], R], items: Sequence[T], jobs: int, few: int, chunk: int = 64
) -> Iterator[R]:
    """`work` of each item, in order; by forked processes unless there are fewer than `few` items.

    The forked processes inherit the work and the items, so that neither has to be pickled.
    """
    if len(items) < few or jobs == 1:
        yield from map(work, items)
        return
    global _WORK
    _WORK = (work, items)
    try:
        with interrupts.deferred():
            made = multiprocessing.get_context("fork").Pool(jobs, _die_quietly)
        with made as pool:
            size = max(1, min(chunk, len(items) // (jobs * 4)))
            yield from pool.imap(_nth, range(len(items)), chunksize=size)
    finally:
        _WORK = None


def _die_quietly() -> None:
    # A forked worker inherits the command's handlers, which would print a traceback when the pool
    # ends its workers by SIGTERM, or a terminal sends its signal to all. Until here the signals are
    # held: raised earlier, outside multiprocessing's own `try`, the worker would go on as a second
    # copy of the command, and clean up what the first still uses.
    for number in interrupts.TERMINATION:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupts.TERMINATION)


def _nth(number: int) -> Any:
    assert _WORK
    work, items = _WORK
    return work(items[number])
