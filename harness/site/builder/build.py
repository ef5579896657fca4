"""The build: read new records, make what has changed, check links, put the files in place."""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness import paths
from harness.claims import claims as claiming
from harness.claims import matrices, published
from harness.errors import DiskFull, SiteError, UsageError
from harness.measure.record import digest
from harness.rig.discovery import OURS, discover
from harness.site import pages
from harness.site.builder import check, later, output, preview, workers
from harness.site.builder.digest_cache import CachedJson, DigestCache
from harness.site.builder.manifest import Manifest, RememberedRun
from harness.site.builder.renderer import Renderer
from harness.site.data import exports, record_summary
from harness.site.data.corpus import Corpus, Place, Problem, RecordEntry, places, with_marks
from harness.site.page import Group

SOURCES = paths.SITE
ADDRESS = "http://127.0.0.1:8000/"
"""The address that feeds and the sitemap use by default: where `--serve` shows the site."""


@dataclass(frozen=True)
class BuildResult:
    """The result of a build: its directory, the number of pages and records, and what was left out.

    `made` counts the files that were made; the others were kept from the previous build.
    """

    out: Path
    pages: int
    records: int
    problems: tuple[Problem, ...]
    made: int = 0


@dataclass(frozen=True)
class Options:
    """How to build a site. Ages are counted from `today`, or from the newest record if it is None.

    `address` is where the site will be served; `jobs` is the number of processes; `again` ignores
    the previous build. `repository` is the address of the source, for a link to it; `preview` also
    draws the picture that other sites show beside a link.
    """

    today: str | None = None
    address: str = ADDRESS
    jobs: int = 0
    again: bool = False
    repository: str = ""
    preview: bool = False


def build(
    results: Path, out: Path, *, sources: Path = SOURCES, options: Options = Options()
) -> BuildResult:
    """Build the site of `results` into `out`; a failed build leaves the old site in place.

    Published figures come from `results`/published, or if that is absent from the built-in ones.
    Equal inputs give equal bytes. Raises SiteError, PublishedError and UsageError.
    """
    if not results.is_dir():
        raise UsageError(
            f"{results} is not a directory of records",
            hint="name a directory with --results, or make the first record: coppice run --all",
        )
    if not (sources / "templates").is_dir():
        raise UsageError(
            f"the site's templates are not in {sources}",
            hint="they belong to a checkout: install it with pip install -e .",
        )
    directory = paths.PACKAGE / "site" / "pages"
    check.check_sources(
        sorted([*sources.rglob("*.html"), *sources.rglob("*.md")]), sorted(directory.glob("*.py"))
    )
    own = results / "published"
    quoted = own if own.is_dir() else paths.PUBLISHED
    known = _Code(_rigs(), _patches())
    code = _code(sources, quoted, options, known)
    with _without_collection(), _room(out):
        try:
            with output.Directory(out, code, again=options.again) as site:
                return _Build(results, site, sources, quoted, options, known).run()
        except SiteError:
            if not site.before.records:
                raise
        # The error may come from pages kept from the previous build: build all of it again.
        with output.Directory(out, code, again=True) as site:
            return _Build(results, site, sources, quoted, options, known).run()


@contextlib.contextmanager
def _room(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"no disk space for the site beside {out}; the old site is unchanged",
            hint=f"free some space, then build again: df -h {out.parent}",
        ) from error


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Turn the garbage collector off: millions of small objects live until the end, and scanning
    them takes as long as everything else. Garbage goes away with the process that made it."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@dataclass(frozen=True)
class _Code:
    """What verdicts depend on besides records: digests of rigs and patches."""

    rigs: Mapping[str, Sequence[str]]
    patches: Mapping[str, str]


def _code(sources: Path, quoted: Path, options: Options, known: _Code) -> str:
    """A digest of everything that pages are made of, except records."""
    whole = hashlib.sha256(
        repr((options.today, options.address, options.repository, options.preview)).encode()
    )
    here = paths.PACKAGE
    for directory in (here / "site", here / "claims", here / "measure", sources, quoted):
        for path in sorted(directory.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                whole.update(path.relative_to(directory).as_posix().encode())
                whole.update(path.read_bytes())
    for name, digests in sorted({**known.rigs, **known.patches}.items()):
        whole.update(f"{name} {digests}".encode())
    return whole.hexdigest()


def _rigs() -> Mapping[str, Sequence[str]]:
    """For each rig's file, the digests of versions that measure the same; the current one first."""
    # Loading the rigs imports everything they measure with, which takes as long as making pages.
    # The answer is cached until a rig's file changes.
    files = {path.name: digest(path) for path in sorted(paths.RIGS.glob("*.py"))}
    name = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:24]
    with CachedJson(f"rigs-{name}.json") as kept:
        if not kept.found:
            kept.found = {
                f"rigs/{rig.path.name}": [digest(rig.path), *rig.info.measured_alike]
                for rig in discover().found.values()
                if rig.distribution == OURS
            }
        return kept.found


def _patches() -> Mapping[str, str]:
    found = paths.PATCHES.glob("*/*")
    return {one.relative_to(paths.DATA).as_posix(): digest(one) for one in found if one.is_file()}


class _Build:
    """One build and its state."""

    def __init__(
        self,
        results: Path,
        directory: output.Directory,
        sources: Path,
        quoted: Path,
        options: Options,
        known: _Code,
    ) -> None:
        self.results, self.directory, self.sources = results, directory, sources
        self.options, self.known = options, known
        self.jobs = workers.processes(options.jobs)
        self.seen = DigestCache(results)
        self.before, self.after = directory.before, Manifest(directory.before.code)
        self.published = published.load(quoted)
        self.matrices = matrices.load(quoted, self.published)
        self.claims = claiming.load(self.published)
        self.pages = pages.discover()
        render = Renderer(sources, self.pages, options.address, options.repository, options.preview)
        self.maker = workers.PageWriter(directory, render, self.before, self.claims)
        self.files: set[str] = set()
        self.all = workers.Written()
        self.made = 0

    def run(self) -> BuildResult:
        entries, problems = self._records()
        today = self.options.today or (entries[-1].date if entries else "1970-01-01")
        rigs, patches = self.known.rigs, self.known.patches
        found = Corpus(
            with_marks(entries, rigs, patches, today),
            problems,
            self.published,
            self.claims,
            rigs,
            patches,
            today,
            self.options.address,
            self.matrices,
        )
        self._later(found)
        self._static()
        if self.options.preview:
            self._group(preview.group(found))
        self._pages(found)
        pages = [path for path in self.files if path.endswith(".html")]
        self._add(["sitemap.xml"])
        self.directory.write("sitemap.xml", exports.sitemap(found.address, pages))
        self._check(entries)
        self.directory.place(self.after, self.files)
        self.seen.save()
        return BuildResult(self.directory.out, len(pages), len(entries), tuple(problems), self.made)

    def _add(self, paths: Iterable[str]) -> None:
        for path in paths:
            if path in self.files:
                raise SiteError(f"two pages write {path}")
            self.files.add(path)

    def _records(self) -> tuple[Sequence[RecordEntry], Sequence[Problem]]:
        """Every record's pages, made again only if the record's file has changed."""
        found, problems = places(self.results)
        outgoing = dict.fromkeys(self.before.outgoing)
        shared = self.after.shared = dict(self.before.shared)
        new: list[Place] = []
        for place in found:
            known = self.before.records.get(place.shown)
            if known and known.sha256 == self.seen.digest(place.path):
                files = known.files(place.stem)
                if self.directory.keeps(files):
                    self.after.records[place.shown] = known
                    self._add(files)
                    continue
            new.append(place)
        left_out = list(problems)
        work = workers.spread(self.maker.run, new, self.jobs, workers.FEW)
        for place, result in zip(new, work, strict=True):
            if isinstance(result, Problem):
                left_out.append(result)
                continue
            data, also, made = result
            shared.update(also)
            endings = [path.removeprefix(place.stem) for path in made.files]
            self.after.records[place.shown] = RememberedRun.of(place.shown, data[-1], endings, data)
            self._add(made.files)
            self.made += len(made.files)
            outgoing.update(dict.fromkeys(made.links))
        self.after.outgoing = sorted(outgoing)
        read, known_runs = record_summary.Reader(shared), self.after.records
        entries = [
            RecordEntry(read(known_runs[one.shown].data), one)
            for one in found
            if one.shown in known_runs
        ]
        entries.sort(key=lambda entry: (entry.summary.run_id, entry.page))
        return entries, sorted(left_out, key=lambda one: one.path)

    def _later(self, found: Corpus) -> None:
        """What the pages of superseded runs say of later ones, where that has changed."""
        changed = [
            (entry, text)
            for entry in found.entries
            if (text := later.text(found, entry)) != self._known(entry).later
        ]
        for _ in workers.spread(self.maker.later, changed, self.jobs, workers.FEW):
            pass
        for entry, text in changed:
            known = self._known(entry)
            self.after.records[entry.place.shown] = RememberedRun.of(
                entry.place.shown, known.sha256, known.endings, known.data, text
            )
        self.made += sum(one.place.shown in self.before.records for one, _ in changed)

    def _known(self, entry: RecordEntry) -> RememberedRun:
        return self.after.records[entry.place.shown]

    def _static(self) -> None:
        for path in sorted((self.sources / "static").rglob("*")):
            if path.is_file():
                name = f"static/{path.relative_to(self.sources / 'static').as_posix()}"
                self._add([name])
                self.directory.write(name, path.read_bytes())

    def _pages(self, found: Corpus) -> None:
        """All other pages: standalone ones always, groups only if their inputs have changed."""
        # Start the slow pages first, so that no process waits for them at the end.
        pages = sorted(self.pages, key=lambda one: not one.long)
        work = partial(self.maker.page, found, 0)
        for one, result in zip(pages, workers.spread(work, pages, self.jobs, 2, 1), strict=True):
            whole = result or self.maker.page(found, self.jobs, one)
            assert whole
            self._add(whole.alone.files)
            self.made += len(whole.alone.files)
            self.all += whole.alone
            for name, known in whole.groups.items():
                self._remember(name, known)
                self.made += len(known["files"])
            for name in whole.kept:
                self._remember(name, self.before.groups[name])

    def _group(self, one: Group) -> None:
        """Files that are kept as long as their inputs are the same."""
        known = self.before.same(one.name, workers.key_of(one))
        if not known or not self.directory.keeps(known["files"]):
            known = self.maker.group(one)
            self.made += len(known["files"])
        self._remember(one.name, known)

    def _remember(self, name: str, known: Mapping[str, Any]) -> None:
        self.after.groups[name] = known
        self._add(known["files"])
        links = dict.fromkeys(known["links"], known["files"][0])
        self.all += workers.Written([], known["ids"], links)

    def _check(self, entries: Sequence[RecordEntry]) -> None:
        by_page = {entry.page: entry.summary for entry in entries}
        ids = {path: frozenset(several) for path, several in self.all.ids.items()}

        def has(path: str, id: str) -> bool:
            return path in by_page and workers.has_anchor(by_page[path], id)

        links = {**dict.fromkeys(self.after.outgoing, "a page of a run"), **self.all.links}
        check.refuse(check.dangling(links, self.files, ids, has))
