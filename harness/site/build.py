"""The build: read, render into memory, check, write beside the target, rename."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from harness.claims import published
from harness.errors import UsageError
from harness.measure import quantity, statistics
from harness.measure.record import Series
from harness.site import check, corpus, figures, page

_CHECKOUT = Path(__file__).parent.parent.parent
SOURCES = _CHECKOUT / "site"
RESULTS = _CHECKOUT / "results"
MARKER = ".coppice-site"
"""Says that a folder is a site of ours and may be replaced."""


@dataclass(frozen=True)
class Built:
    """What a build made: its folder, how many pages and records, and what was left out."""

    out: Path
    pages: int
    records: int
    problems: tuple[corpus.Problem, ...]


def build(results: Path, out: Path, *, sources: Path = SOURCES) -> Built:
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
    own = results / "published"
    found = corpus.load(results, own if own.is_dir() else RESULTS / "published")
    files = render(found, sources)
    check.check_links(files)
    _replace(out, files)
    pages = sum(path.endswith(".html") for path in files)
    return Built(out, pages, len(found.entries), tuple(found.problems))


def render(found: corpus.Corpus, sources: Path = SOURCES) -> Mapping[str, bytes]:
    """Every file of the site by its path."""
    folder = Path(__file__).parent / "pages"
    check.check_sources(
        sorted([*sources.rglob("*.html"), *sources.rglob("*.md")]), sorted(folder.glob("*.py"))
    )
    environment = _environment(sources)
    pages = page.discover()
    navigation = [one.nav for one in pages if one.nav]
    files: dict[str, bytes] = {}

    def add(path: str, content: bytes) -> None:
        if path in files:
            raise check.SiteError(f"two pages write {path}")
        files[path] = content

    for path in sorted((sources / "static").rglob("*")):
        if path.is_file():
            add(f"static/{path.relative_to(sources / 'static').as_posix()}", path.read_bytes())
    for one in pages:
        for made in one.render(found):
            if isinstance(made, page.Asset):
                add(made.path, made.content)
                continue
            text = environment.get_template(made.template).render(
                **made.context, document=made, link=made.link, navigation=navigation, corpus=found
            )
            add(made.path, text.encode())
    return files


def _environment(sources: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(sources / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

    def linked(function: Any) -> Any:
        """Give a figure function the way to link from the page that is being rendered."""

        @jinja2.pass_context
        def call(context: jinja2.runtime.Context, *args: Any, **options: Any) -> Any:
            return function(*args, link=context["link"], **options)

        return call

    for function in (
        figures.figure,
        figures.per,
        figures.count,
        figures.derived,
        figures.clock_figure,
        figures.quoted,
        figures.mark,
    ):
        environment.globals[function.__name__] = linked(function)
    environment.globals.update(
        anchor=corpus.anchor,
        own_dimensions=corpus.own_dimensions,
        bounds_of=_bounds,
        slug=corpus.slug,
        bytes_text=figures.bytes_text,
        smallest_n=statistics.smallest_n,
        confidence=f"{statistics.CONFIDENCE:.0%}".replace("%", " %"),
        clocks=published.clocks(),
        labels=published.LABELS,
    )
    return environment


def _bounds(series: Series, statistic: str) -> str:
    """The interval of a statistic with its unit, or nothing."""
    estimate = figures.get(series, statistic)
    bounds = estimate and quantity.show_interval(estimate, series.unit)
    return (
        f"{bounds} {quantity.scale(estimate.value, series.unit)[1]}" if estimate and bounds else ""
    )


def _replace(out: Path, files: Mapping[str, bytes]) -> None:
    """Put `files` in place of `out` by renaming; refuse a folder that is no site of ours."""
    out = Path.cwd() / out
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).exists())):
        raise UsageError(
            f"{out} is there already and is not a site that this command built",
            hint="name another folder with --out, or remove it yourself",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        fresh.chmod(0o755)
        for path, content in files.items():
            target = fresh / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        (fresh / MARKER).write_bytes(b"")
        if out.exists():
            old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-old-"))
            out.rename(old / out.name)
            try:
                fresh.rename(out)
            except OSError:
                (old / out.name).rename(out)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            fresh.rename(out)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
