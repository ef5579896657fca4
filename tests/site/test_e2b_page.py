"""The page on E2B: methods of the SDK with five verdicts, ours, services' and published ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import paths
from harness.claims import matrices, published
from harness.claims.published import PublishedError
from harness.measure import record
from harness.measure.record import Failure, FailureKind, Scalar, Series
from harness.site.builder.build import build
from harness.site.data import e2b
from harness.site.data.corpus import load
from tests.site.factory import of_rig, service

NEWEST, OLDER = "python-9.1.0", "python-8.20.0"
VERDICTS: dict[str, FailureKind | None] = {
    "Sandbox.create": None, "sandbox.fork": "differs", "sandbox.get_mcp_token": "refused",
    "Volume.create": "missing", "git.init": "not-offered",
}  # fmt: skip


def called(metric: str, kind: FailureKind | None, **dimensions: Scalar) -> Series:
    failures = [Failure(1, f"answered as {kind}", kind)] if kind else []
    works = [float(kind is None)]
    return Series(metric, "1", "higher", dimensions, "closed", (), works, failures)


def methods(**dimensions: Scalar) -> Iterator[Series]:
    for sdk in (OLDER, NEWEST):
        for classes in ("async", "sync"):
            for method, kind in VERDICTS.items():
                if (sdk, method) != (OLDER, "sandbox.fork"):
                    yield called("method", kind, sdk=sdk, classes=classes, method=method,
                                 **dimensions)  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def page(results: Path) -> str:
    build(results, results.parent / "out")
    return (results.parent / "out" / "e2b.html").read_text(encoding="utf-8")


def row(text: str, method: str) -> str:
    found = re.search(rf"<th scope=\"row\"><code>{re.escape(method)}</code>.*?</tr>", text, re.S)
    assert found, method
    return found[0]


def test_each_verdict_has_a_sign_and_what_was_answered(results: Path) -> None:
    known = {"sdk": NEWEST, "classes": "sync", "plane": "control plane"}
    operation = called("endpoint", None, **known, operation="GET /health")
    record.write(of_rig("e2b-compat", *methods(), operation), results)
    text = page(results)
    for method, kind in VERDICTS.items():
        sign, name, _ = e2b.KINDS[kind or "works"]
        assert f'aria-hidden="true">{sign}</span><span class="unseen">{name}' in row(text, method)
        assert (f"answered as {kind}" in text) == (kind is not None)
    assert row(text, "sandbox.fork").count("no such method") == 2
    assert text.index(f"{NEWEST} sync") < text.index(f"{NEWEST} async") < text.index(f"{OLDER} s")
    assert "GET /health" in text
    (matrix,) = e2b.matrices(load(results, paths.PUBLISHED))
    assert matrix.score == f"1 of 5 methods of {NEWEST} sync"


def test_the_published_matrix_stands_beside_the_same_methods(results: Path) -> None:
    record.write(of_rig("e2b-compat", *methods()), results)
    text = page(results)
    (stated,) = matrices.load(paths.PUBLISHED, published.load(paths.PUBLISHED))
    assert stated.of_method("git.init") == "alternative"
    for method in VERDICTS:
        verdict = stated.of_method(method)
        assert (f'badge {verdict}">{verdict}' in row(text, method)) == (verdict is not None)


def test_a_service_has_a_table_of_its_own(results: Path) -> None:
    record.write(of_rig("e2b-compat", *methods()), results)
    theirs = [called("method", "missing", sdk=NEWEST, classes="sync", method="Sandbox.create",
                     system="cubesandbox")]  # fmt: skip
    record.write(of_rig("e2b-compat", *theirs, day=2, endpoint=service()), results)
    assert "test cluster 1" in page(results)
    ours, far = e2b.matrices(load(results, paths.PUBLISHED))
    assert (ours.score, far.score) == (
        f"1 of 5 methods of {NEWEST} sync", f"0 of 1 methods of {NEWEST} sync",
    )  # fmt: skip


def test_an_older_record_with_operations_alone_is_shown(results: Path) -> None:
    series = [
        called("endpoint", kind, sdk=sdk, operation=operation, plane="envd")
        for sdk in (OLDER, NEWEST)
        for operation, kind in (("POST /files", None), ("process: List", None))
    ]
    broken = Failure(1, "it broke", None)
    series.append(
        Series(
            "endpoint",
            "1",
            "higher",
            {"sdk": NEWEST, "operation": "GET /x", "plane": "envd"},
            "closed",
            (),
            [0.0],
            [broken],
        )
    )
    record.write(of_rig("e2b-compat", *series), results)
    text = page(results)
    assert "operations of the envd" in text and "it broke" in text
    (matrix,) = e2b.matrices(load(results, paths.PUBLISHED))
    assert matrix.score == "4 of 5, across 2 SDK versions"


def test_a_matrix_names_only_rows_that_it_has(tmp_path: Path) -> None:
    source = (paths.PUBLISHED / "matrices" / "cubesandbox-e2b.yaml").read_text(encoding="utf-8")
    (tmp_path / "matrices").mkdir()
    copy = tmp_path / "matrices" / "wrong.yaml"
    copy.write_text(source.replace("  git.*: [git.*]", "  gti.*: [git.*]"), encoding="utf-8")
    with pytest.raises(PublishedError, match=r"methods: 'gti\.\*' is no row"):
        matrices.load(tmp_path, published.load(paths.PUBLISHED))
