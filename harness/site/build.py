"""The build: read what is new, make what has changed, check links, take the old site's place."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from harness.claims import claims as claiming
from harness.claims import published
from harness.claims.claims import Claim
from harness.errors import UsageError
from harness.measure.record import digest
from harness.rig import discover
from harness.site import brief, check, exports, page, store
from harness.site.corpus import Corpus, Entry, Place, Problem, places, read
from harness.site.environment import Renderer
from harness.site.page import Asset, Document, Group
from harness.site.run_page import files_of_run
from harness.site.seen import Seen

CHECKOUT = Path(__file__).parent.parent.parent
SOURCES = CHECKOUT / "site"
RESULTS = CHECKOUT / "results"
ADDRESS = "http://127.0.0.1:8000/"
"""Where feeds and the sitemap say that the site is, unless told: where `--serve` shows it."""
_FEW = 24
"""Things to make for which a second process is not worth its start."""
_FIXED = frozenset(("validity", "figures", "repeat", "clock", "machine", "inputs", "main"))


@dataclass(frozen=True)
class Built:
    """What a build made: its folder, how many pages and records, and what was left out.

    `made` counts the files that had to be made; the rest were taken over as they were.
    """

    out: Path
    pages: int
    records: int
    problems: tuple[Problem, ...]
    made: int = 0


@dataclass(frozen=True)
class Options:
    """How a site is built. `today` is the day that ages count from: the newest record's, if None.

    `address` is where the site will be found; `jobs` how many processes make pages.
    """

    today: str | None = None
    address: str = ADDRESS
    jobs: int = 0
    again: bool = False


def build(
    results: Path, out: Path, *, sources: Path = SOURCES, options: Options = Options()
) -> Built:
    """Build the site of `results` into `out`, which changes whole or not at all.

    Published figures come from `results`/published, or from this checkout when that is absent.
    Equal inputs give equal bytes. Raises SiteError, PublishedError and UsageError.
    """
    if not results.is_dir():
        raise UsageError(
            f"{results} is no folder of records",
            hint="name one with --results, or make the first record: mise run bench",
        )
    if not (sources / "templates").is_dir():
        raise UsageError(
            f"the site's templates are not in {sources}",
            hint="they belong to a checkout: install it with pip install -e '.[site]'",
        )
    folder = Path(__file__).parent / "pages"
    check.check_sources(
        sorted([*sources.rglob("*.html"), *sources.rglob("*.md")]), sorted(folder.glob("*.py"))
    )
    own = results / "published"
    quoted = own if own.is_dir() else RESULTS / "published"
    known = _Checkout(_rigs(), _patches())
    code = _code(sources, quoted, options, known)
    with _without_collection():
        marker = store.Marker(code) if options.again else store.remembered(out, code)
        try:
            return _Build(results, out, sources, quoted, marker, options, known).run()
        except check.SiteError:
            if not marker.records:
                raise
            # What is remembered of pages that were kept may be what is wrong.
            fresh = store.Marker(code)
            return _Build(results, out, sources, quoted, fresh, options, known).run()


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Millions of small objects live until the end: looking for garbage among them takes as long
    as all the rest. What a page leaves behind goes with the process that made it."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@dataclass(frozen=True)
class _Checkout:
    """What of the checkout verdicts depend on: digests of rigs and patches."""

    rigs: Mapping[str, Sequence[str]]
    patches: Mapping[str, str]


def _code(sources: Path, quoted: Path, options: Options, known: _Checkout) -> str:
    """A digest of everything that pages are made of, but for records."""
    whole = hashlib.sha256(repr((options.today, options.address)).encode())
    here = Path(__file__).parent
    for folder in (here, here.parent / "claims", here.parent / "measure", sources, quoted):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                whole.update(path.relative_to(folder).as_posix().encode())
                whole.update(path.read_bytes())
    for name, digests in sorted({**known.rigs, **known.patches}.items()):
        whole.update(f"{name} {digests}".encode())
    return whole.hexdigest()


def _rigs() -> Mapping[str, Sequence[str]]:
    """The digests of each rig's file that measure what it measures now, the first as it is."""
    return {
        f"rigs/{path.name}": (digest(path), *rig.measured_alike)
        for path, rig in discover(CHECKOUT / "rigs").values()
    }


def _patches() -> Mapping[str, str]:
    found = (CHECKOUT / "patches").glob("*/*")
    return {one.relative_to(CHECKOUT).as_posix(): digest(one) for one in found if one.is_file()}


Made = tuple[list[str], dict[str, check.Names]]
"""The files of a group, and what its pages name and link to."""


class _Build:
    """One build, with what it knows so far."""

    def __init__(
        self,
        results: Path,
        out: Path,
        sources: Path,
        quoted: Path,
        marker: store.Marker,
        options: Options,
        known: _Checkout,
    ) -> None:
        self.results, self.out, self.sources = results, out, sources
        self.options, self.before, self.known = options, marker, known
        self.seen = Seen(results)
        self.after = store.Marker(marker.code)
        self.published = published.load(quoted)
        self.claims = claiming.load(self.published)
        self.pages = page.discover()
        self.files: set[str] = set()
        self.names: dict[str, check.Names] = {}
        self.links: set[str] = set()
        self.made = 0

    def run(self) -> Built:
        with store.Folder(self.out) as folder:
            self.folder = folder
            self.render = Renderer(self.sources, self.pages, self.options.address)
            entries, problems = self._records()
            found = Corpus(
                entries,
                problems,
                self.published,
                self.claims,
                self.known.rigs,
                self.known.patches,
                self.options.today or (entries[-1].date if entries else "1970-01-01"),
                self.options.address,
            )
            self._static()
            self._pages(found)
            pages = [path for path in self.files if path.endswith(".html")]
            self._add(["sitemap.xml"])
            folder.write("sitemap.xml", exports.sitemap(found.address, pages))
            self._check(entries)
            folder.place(self.after)
        self.seen.save()
        return Built(self.out, len(pages), len(entries), tuple(problems), self.made)

    def _add(self, paths: Iterable[str]) -> None:
        for path in paths:
            if path in self.files:
                raise check.SiteError(f"two pages write {path}")
            self.files.add(path)

    def _records(self) -> tuple[Sequence[Entry], Sequence[Problem]]:
        """Every record's page, made anew where its file is not the one that it was made of."""
        found, problems = places(self.results)
        outgoing = dict.fromkeys(self.before.outgoing)
        briefs: dict[str, brief.Brief] = {}
        new = []
        for place in found:
            known = self.before.records.get(place.shown)
            if (
                known
                and known.sha256 == self.seen.digest(place.path)
                and self.folder.keep(known.files)
            ):
                briefs[place.shown] = brief.from_json(known.data)
                self.after.records[place.shown] = known
                self._add(known.files)
            else:
                new.append(place)
        work = partial(_make_run, self.folder, self.render, self.claims)
        left_out = list(problems)
        for place, result in zip(new, _spread(work, new, self.options.jobs), strict=True):
            if isinstance(result, Problem):
                left_out.append(result)
                continue
            data, files, links = result
            briefs[place.shown] = brief.from_json(data)
            sha256 = briefs[place.shown].sha256
            self.after.records[place.shown] = store.Run.of(place.shown, sha256, files, data)
            self._add(files)
            self.made += len(files)
            outgoing.update(dict.fromkeys(links))
        self.after.outgoing = sorted(outgoing)
        entries = [Entry(briefs[one.shown], one) for one in found if one.shown in briefs]
        entries.sort(key=lambda entry: (entry.brief.run_id, entry.page))
        return entries, sorted(left_out, key=lambda one: one.path)

    def _static(self) -> None:
        for path in sorted((self.sources / "static").rglob("*")):
            if path.is_file():
                name = f"static/{path.relative_to(self.sources / 'static').as_posix()}"
                self._add([name])
                self.folder.write(name, path.read_bytes())

    def _pages(self, found: Corpus) -> None:
        """Every other page: what stands alone now, groups where their inputs changed."""
        groups: list[Group] = []
        for one in self.pages:
            for item in one.render(found):
                if isinstance(item, Group):
                    groups.append(item)
                    continue
                files, names = _write(self.folder, self.render, [item])
                self._add(files)
                self.made += len(files)
                self.names.update(names)
        new = []
        for group in groups:
            key = hashlib.sha256("\n".join(group.inputs).encode()).hexdigest()
            known = store.same(self.before, group.name, key)
            if known and self.folder.keep(known["files"]):
                self._remember(group.name, known)
                self._add(known["files"])
            else:
                new.append((group, key))
        work = partial(_make_group, self.folder, self.render)
        chosen = [group for group, _ in new]
        for (group, key), (files, ids, links) in zip(
            new, _spread(work, chosen, self.options.jobs), strict=True
        ):
            self._add(files)
            self.made += len(files)
            self._remember(group.name, {"key": key, "files": files, "ids": ids, "links": links})

    def _remember(self, name: str, known: Mapping[str, Any]) -> None:
        self.after.groups[name] = known
        for path, ids in known["ids"].items():
            self.names[path] = check.Names(ids, ())
        self.links.update(known["links"])

    def _check(self, entries: Sequence[Entry]) -> None:
        by_page = {entry.page: entry for entry in entries}
        anchors: dict[str, frozenset[str]] = {}

        def has(path: str, id: str) -> bool:
            if path not in by_page:
                return False
            if path not in anchors:
                anchors[path] = _anchors(by_page[path].brief)
            return id in anchors[path]

        others = {
            "a page of a run": check.Names((), self.after.outgoing),
            "a page of many": check.Names((), sorted(self.links)),
        }
        check.refuse(check.broken({**self.names, **others}, self.files, has))


def _anchors(one: brief.Brief) -> frozenset[str]:
    """The ids that a run's page has for others to lead to."""
    found = set(_FIXED)
    for line in one.lines:
        found.add(line.anchor)
        withheld = one.function_only and line.unit != brief.COUNTED
        known: Iterable[str] = ("p50",) if withheld else line.estimates
        found.update(f"{line.anchor}.{name}" for name in known)
    return frozenset(found)


def _make_run(
    folder: store.Folder, render: Renderer, claims: Sequence[Claim], place: Place
) -> Problem | tuple[list[Any], list[str], list[str]]:
    """Read one record and write its files: it in brief, the files, what they link to."""
    found = read(place)
    if isinstance(found, Problem):
        return found
    content, record = found
    entry = Entry(brief.of(record, hashlib.sha256(content).hexdigest()), place)
    entry.__dict__["record"] = record
    files, names = _write(folder, render, files_of_run(entry, content, claims))
    own = set(files)
    links: list[str] = []
    for path, one in names.items():
        check.refuse(check.twice(path, one))
        if path == entry.page and not _anchors(entry.brief) <= set(one.ids):
            missing = sorted(_anchors(entry.brief) - set(one.ids))[:3]
            raise check.SiteError(f"{path} has no {', '.join(missing)}")
        ids = set(one.ids)
        for link, target, anchor in check.targets(path, one):
            if target not in own:
                links.append(f"{target}#{anchor}" if anchor else target)
            elif anchor and target == path and anchor not in ids:
                raise check.SiteError(f"{path}: {link}")
    return brief.to_json(entry.brief), files, sorted(set(links))


def _make_group(
    folder: store.Folder, render: Renderer, group: Group
) -> tuple[list[str], dict[str, list[str]], list[str]]:
    """Write a group's files: these, the ids of its pages, and everything that they link to."""
    files, names = _write(folder, render, group.make())
    links = {
        f"{target}#{anchor}" if anchor else target
        for path, one in names.items()
        for _, target, anchor in check.targets(path, one)
    }
    return files, {path: list(one.ids) for path, one in names.items()}, sorted(links)


def _write(folder: store.Folder, render: Renderer, items: Iterable[Document | Asset]) -> Made:
    files: list[str] = []
    names: dict[str, check.Names] = {}
    for item in items:
        content = item.content if isinstance(item, Asset) else render(item)
        folder.write(item.path, content)
        files.append(item.path)
        if item.path.endswith(".html"):
            names[item.path] = check.names(content.decode())
    return files, names


T = TypeVar("T")
R = TypeVar("R")
_WORK: tuple[Callable[[Any], Any], Sequence[Any]] | None = None


def _spread(work: Callable[[T], R], items: Sequence[T], jobs: int) -> Iterator[R]:
    """`work` of each item, in order; by forked processes where there are many.

    What is to be done is inherited by the fork, so that neither it nor the items need be sent.
    """
    jobs = jobs or min(os.cpu_count() or 1, 8)
    if len(items) < _FEW or jobs == 1:
        yield from map(work, items)
        return
    global _WORK
    _WORK = (work, items)
    try:
        with multiprocessing.get_context("fork").Pool(jobs) as pool:
            size = max(1, min(64, len(items) // (jobs * 4)))
            yield from pool.imap(_nth, range(len(items)), chunksize=size)
    finally:
        _WORK = None


def _nth(number: int) -> Any:
    assert _WORK
    work, items = _WORK
    return work(items[number])
