"""The site's machine-readable files, in standard formats. Equal records give equal bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from harness import __version__
from harness.claims.verdict import Verdict
from harness.measure.quantity import show
from harness.measure.record import SCHEMA_FILE
from harness.site.data import evidence, figures, machines
from harness.site.data.addresses import slug
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.files import as_csv, as_json
from harness.site.data.linked_data import LICENCE
from harness.site.data.record_summary import RecordSummary
from harness.site.data.run_list import headline, title

__all__ = ["as_json", "claims_csv", "crate", "dataset", "feed", "index", "sitemap", "statement"]

_NEWEST = 50
CLAIM_COLUMNS = (
    "claim", "publisher", "title", "quote", "as_written", "value", "unit", "statistic", "when",
    "source", "system", "verdict", "notes", "marks", "comparable", "measured_on", "ours",
    "low", "high", "needed", "decides", "machine", "rig", "metric", "record", "why",
    "published_state", "endpoint",
)  # fmt: skip


def index(corpus: Corpus) -> bytes:
    """Every machine, record and claim, with the addresses of their pages and files."""
    return as_json(
        {
            "schema": "coppice.index/1",
            "today": corpus.today,
            "harness": __version__,
            "machines": [
                {
                    "id": id,
                    "name": several[-1].summary.machine.name,
                    "class": several[-1].summary.machine.class_,
                    "records": len(several),
                }
                for id, several in corpus.machines.items()
            ],
            "records": [
                {
                    "run_id": one.summary.run_id,
                    "rig": one.summary.rig.id,
                    "profile": one.summary.profile,
                    "machine": one.summary.machine.id,
                    "endpoint": one.summary.endpoint.identity if one.summary.endpoint else None,
                    "validity": one.summary.validity.status,
                    "superseded_by": _superseded_by(corpus, one),
                    "function_only": one.summary.function_only or None,
                    "series": len(one.summary.series),
                    "page": one.page,
                    "record": one.raw,
                    "sha256": one.summary.sha256,
                }
                for one in corpus.entries
            ],
            "left_out": [vars(one) for one in corpus.problems],
            "claims": [
                {"id": one.id, "title": one.title, "page": f"claims/{one.id}.html"}
                for one in corpus.claims
            ],
            "files": {
                "schema": f"schema/{SCHEMA_FILE.name}",
                "claims": "claims.csv",
                "published": "published.json",
                "published_csv": "published.csv",
                "dataset": "dataset.jsonld",
                "crate": "ro-crate-metadata.json",
                "feed": "feed.xml",
                "statement": "statement.intoto.json",
                "regressions": "regressions.json",
                "changes": "changes.json",
                "changes_feed": "changes.xml",
                "sitemap": "sitemap.xml",
            },
        }
    )


def _superseded_by(corpus: Corpus, one: RecordEntry) -> Sequence[str] | None:
    found = corpus.superseded.get(one.summary.run_id)
    return found.by if found else None


def claims_csv(corpus: Corpus) -> bytes:
    """One line per claim, answer and machine; numbers in SI units."""
    rows: list[Sequence[object]] = []
    machines: Sequence[str | None] = list(corpus.machines)[:50] or [None]
    for machine in machines:
        for claim in corpus.claims:
            one = claim.figure
            head = (
                claim.id, one.publisher, claim.title, claim.quote, one.as_written, one.value,
                one.unit, one.statistic, one.when, one.source,
            )  # fmt: skip
            for judged in evidence.judged(corpus, claim, machine):
                finding, found = judged.finding, judged.found
                ours = finding.estimate
                measured = finding.verdict is not Verdict.NOT_MEASURED
                rows.append(
                    (
                        *head,
                        claim.system,
                        str(finding.verdict),
                        "; ".join(finding.notes) or None,
                        "; ".join(one.text for one in finding.marks) or None,
                        "yes" if judged.answer.comparable else "no",
                        finding.system or None,
                        ours and ours.value,
                        ours and ours.low,
                        ours and ours.high,
                        finding.needed,
                        "yes" if judged.decides and measured else "no",
                        machine,
                        judged.answer.rig,
                        judged.answer.metric,
                        found.entry.raw if found else None,
                        judged.answer.why,
                        one.state or None,
                        (found.summary.kind.endpoint or None) if found else None,
                    )
                )
    return as_csv(CLAIM_COLUMNS, rows)


def dataset(corpus: Corpus) -> Mapping[str, Any]:
    """schema.org's Dataset, as search engines read it."""
    lines = {
        (series.metric, series.unit): one.summary.rig.id
        for one in corpus.entries
        for series in one.summary.series
    }
    days = [one.date for one in corpus.entries]
    return {
        "@context": "https://schema.org/",
        "@type": "Dataset",
        "name": "Coppice: what people claim about sandboxes, measured",
        "description": "Run records of benchmarks of sandbox hosts: cold start, density, network "
        "isolation and policy, with every sample in measurement order.",
        "url": corpus.address,
        "license": LICENCE,
        "isAccessibleForFree": True,
        "version": __version__,
        "dateModified": corpus.today,
        **({"temporalCoverage": f"{min(days)}/{max(days)}"} if days else {}),
        "measurementTechnique": "Clocks that stop on work which a sandbox has done (method.html)",
        "variableMeasured": [
            {
                "@type": "PropertyValue",
                "name": f"{rig}: {metric}",
                "unitText": unit,
            }
            for (metric, unit), rig in sorted(lines.items())
        ],
        "distribution": [
            {
                "@type": "DataDownload",
                "encodingFormat": kind,
                "contentUrl": f"{corpus.address}{path}",
            }
            for path, kind in (
                ("index.json", "application/json"),
                ("claims.csv", "text/csv"),
                ("ro-crate-metadata.json", "application/ld+json"),
            )
        ],
    }


def crate(
    corpus: Corpus, path_of: Callable[[RecordEntry], str] = lambda one: one.raw
) -> Mapping[str, Any]:
    """RO-Crate 1.2 with the Process Run profile: each record is the result of running a rig."""
    files, actions, rigs, hosts = [], [], {}, {}
    for one in corpus.entries:
        b = one.summary
        path = path_of(one)
        files.append(
            {
                "@id": path,
                "@type": "File",
                "name": title(b),
                "encodingFormat": "application/json",
                "sha256": b.sha256,
            }
        )
        rigs[b.rig.path] = {
            "@id": f"#rig-{b.rig.sha256}",
            "@type": ["SoftwareSourceCode", "SoftwareApplication"],
            "name": b.rig.id,
            "url": b.rig.path,
            "sha256": b.rig.sha256,
        }
        rigs[b.rig.sha256] = rigs.pop(b.rig.path)
        hosts[b.machine.id] = {
            "@id": f"#machine-{b.machine.id}",
            "@type": "Thing",
            "name": b.machine.name,
            "description": f"{b.machine.cpu}; {b.machine.os}; kernel {b.machine.kernel}",
        }
        if b.endpoint:
            hosts[b.endpoint.identity] = {
                "@id": f"#service-{slug(b.endpoint.identity)}",
                "@type": "Thing",
                "name": b.endpoint.name,
                "description": b.endpoint.identity,
            }
        actions.append(
            {
                "@id": f"#run-{b.run_id}",
                "@type": "CreateAction",
                "name": b.task,
                "instrument": {"@id": f"#rig-{b.rig.sha256}"},
                "object": [
                    {"@id": f"#machine-{b.machine.id}"},
                    *([{"@id": f"#service-{slug(b.endpoint.identity)}"}] if b.endpoint else []),
                ],
                "result": [{"@id": path}],
                "startTime": b.started,
                "endTime": b.finished,
                "actionStatus": "FailedActionStatus"
                if b.validity.status == "failed"
                else "CompletedActionStatus",
            }
        )
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": "Coppice run records",
        "description": "Benchmarks of sandbox hosts, one file for each run of a rig.",
        "datePublished": corpus.today,
        "license": {"@id": LICENCE},
        "conformsTo": {"@id": "https://w3id.org/ro/wfrun/process/0.5"},
        "hasPart": [{"@id": one["@id"]} for one in files],
        "mentions": [{"@id": one["@id"]} for one in actions],
    }
    graph = [
        {
            "@id": "ro-crate-metadata.json",
            "@type": "CreativeWork",
            "about": {"@id": "./"},
            "conformsTo": [{"@id": "https://w3id.org/ro/crate/1.2"}],
        },
        root,
        {"@id": LICENCE, "@type": "CreativeWork", "name": "BSD 2-Clause"},
        {
            "@id": "https://w3id.org/ro/wfrun/process/0.5",
            "@type": "CreativeWork",
            "name": "Process Run Crate",
        },
        *files,
        *rigs.values(),
        *hosts.values(),
        *actions,
    ]
    return {"@context": "https://w3id.org/ro/crate/1.2/context", "@graph": graph}


def statement(corpus: Corpus) -> Mapping[str, Any]:
    """An unsigned in-toto statement: the digest of every record, and its run's outcome."""
    states = {one.summary.validity.status for one in corpus.entries}
    result = "FAILED" if "failed" in states else "WARNED" if "suspect" in states else "PASSED"
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": one.raw, "digest": {"sha256": one.summary.sha256}} for one in corpus.entries
        ],
        "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
        "predicate": {
            "result": result,
            "configuration": [
                {"name": path, "digest": {"sha256": sha256}}
                for path, sha256 in sorted({
                    (one.summary.rig.path, one.summary.rig.sha256) for one in corpus.entries
                })
            ],
            "passedTests": _runs(corpus, "valid"),
            "warnedTests": _runs(corpus, "suspect"),
            "failedTests": _runs(corpus, "failed"),
        },
    }  # fmt: skip


def _runs(corpus: Corpus, status: str) -> list[str]:
    return [one.summary.run_id for one in corpus.entries if one.summary.validity.status == status]


def feed(corpus: Corpus) -> bytes:
    """Atom: the newest results, newest first."""
    newest = corpus.entries[: -_NEWEST - 1 : -1]
    updated = newest[0].summary.finished if newest else f"{corpus.today}T00:00:00Z"
    parts = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<feed xmlns="http://www.w3.org/2005/Atom">',
        "<title>Coppice: new results</title>",
        f"<id>{escape(corpus.address)}feed.xml</id>",
        f'<link rel="self" href={quoteattr(corpus.address + "feed.xml")}/>',
        f"<link href={quoteattr(corpus.address)}/>",
        f"<updated>{escape(updated)}</updated>",
        "<author><name>Coppice</name></author>",
    ]
    for one in newest:
        parts += [
            "<entry>",
            f"<title>{escape(title(one.summary))}</title>",
            f"<id>{escape(corpus.address + one.page)}</id>",
            f"<link href={quoteattr(corpus.address + one.page)}/>",
            f"<updated>{escape(one.summary.finished)}</updated>",
            f"<summary>{escape(_summary(one))}</summary>",
            "</entry>",
        ]
    return ("\n".join([*parts, "</feed>"]) + "\n").encode()


def _summary(one: RecordEntry) -> str:
    series = headline(one.summary)
    median = series and not figures.withheld(one, series) and figures.get(series, "p50")
    words = f"{series.metric}: median {show(median, series.unit)}" if series and median else ""
    if series and one.summary.proves(series):
        words = f"function only, {series.metric}: {', '.join(figures.attempts(one, series))}"
    machine, endpoint = machines.title(one.summary.machine), one.summary.endpoint
    where = f"{endpoint.name}, from {machine}" if endpoint else machine
    return ", ".join(part for part in (_state(one.summary), words, where) if part)


def _state(one: RecordSummary) -> str:
    return "" if one.validity.status == "valid" else one.validity.status


def sitemap(address: str, pages: Iterable[str]) -> bytes:
    """Every page's address, without that for missing ones."""
    lines = [
        f"<url><loc>{escape(address + page)}</loc></url>"
        for page in sorted(pages)
        if page != "404.html"
    ]
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    space = "http://www.sitemaps.org/schemas/sitemap/0.9"
    body = "\n".join(lines[:50_000])
    return f'{head}<urlset xmlns="{space}">\n{body}\n</urlset>\n'.encode()
