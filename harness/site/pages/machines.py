"""One page per machine: its description, verdicts, rigs over time, and all records of its own.

Services that were measured from it have pages of their own (services.py)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from harness.claims.claims import Claim
from harness.site.data import evidence, kvm_figures, machines, services
from harness.site.data.addresses import slug
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.run_list import rows_of
from harness.site.page import Asset, Document, Group, Item, Page

A_PAGE = 130
"""Records per list; older ones are on further pages, which no longer change."""


def pages_of(
    machine: str, entries: Sequence[RecordEntry]
) -> list[tuple[str, Sequence[RecordEntry]]]:
    """Addresses of a machine's lists with their records, newest first; the first is its page.

    Split from the oldest record on, so that a full list never changes.
    """
    parts = [entries[at : at + A_PAGE] for at in range(0, len(entries), A_PAGE)] or [[]]
    name = f"machines/{slug(machine)}"
    older = [(f"{name}.{n}.html", part[::-1]) for n, part in enumerate(parts[:-1], 1)]
    return [(f"{name}.html", parts[-1][::-1]), *reversed(older)]


def _rigs(entries: Sequence[RecordEntry]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for entry in entries:
        one = found.setdefault(entry.summary.rig.id, {"first": entry.date, "runs": 0, "suspect": 0})
        one["runs"] = int(str(one["runs"])) + 1
        one["suspect"] = int(str(one["suspect"])) + (entry.summary.validity.status != "valid")
        one["last"] = entry.date
    return dict(sorted(found.items()))


def _kernels(entries: Sequence[RecordEntry]) -> list[tuple[str, str, str]]:
    """The systems that the machine ran, with the first and last day of each."""
    found: list[tuple[str, str, str]] = []
    for entry in entries:
        name = machines.running(entry.summary.machine)
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1], entry.date)
        else:
            found.append((name, entry.date, entry.date))
    return found[-20:]


def _proved(corpus: Corpus, machine: str) -> list[tuple[Claim, Sequence[evidence.Found]]]:
    """Claims whose function a function-only machine proves."""
    found = [(claim, evidence.proofs(corpus, claim, machine)) for claim in corpus.claims]
    return [(claim, several) for claim, several in found if several]


def _older(
    path: str, part: Sequence[RecordEntry], main: str, superseded: Collection[str]
) -> Iterator[Document | Asset]:
    yield Document(
        path,
        "machine_more.html",
        f"{machines.title(part[0].summary.machine)}: earlier runs",
        "Earlier runs of one machine.",
        {"rows": rows_of(part, superseded), "main": main, "machine": part[0].summary.machine},
    )


def _render(corpus: Corpus) -> Iterator[Item]:
    for id, every in corpus.machines.items():
        entries = [one for one in every if not one.summary.endpoint]
        (main, newest), *older = pages_of(id, entries)
        claims = [
            (claim, evidence.deciding(evidence.judged(corpus, claim, id)))
            for claim in corpus.claims
        ]
        machine = every[-1].summary.machine
        yield Document(
            main,
            "machine.html",
            machines.title(machine),
            f"Everything that was measured on {machines.title(machine)}.",
            {
                "machine": machine,
                "function_only": kvm_figures.function_only(every),
                "partly": kvm_figures.partly_function_only(every),
                "total": len(every),
                "with_kvm": kvm_figures.newest(every),
                "proved": _proved(corpus, id),
                "entries": entries,
                "rows": rows_of(newest, corpus.superseded),
                "older": [path for path, _ in older],
                "rigs": _rigs(entries),
                "kernels": _kernels(every),
                "services": list(services.found(corpus, id)),
                "claims": [(c, j) for c, j in claims if j and j.found],
                "history": f"history/{slug(id)}.html",
                "accelerators": sorted({e.summary.machine.accelerator or "none" for e in entries}),
            },
        )
        for path, part in older:
            inputs = [
                f"{entry.summary.sha256} {entry.summary.run_id in corpus.superseded}"
                for entry in part
            ]

            def make(
                path: str = path, part: Sequence[RecordEntry] = part, main: str = main
            ) -> Iterator[Document | Asset]:
                return _older(path, part, main, corpus.superseded)

            yield Group(path, inputs, make)


PAGE = Page(_render)
