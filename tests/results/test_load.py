"""`harness.results`: the contents of frames, and errors."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pandas
import pytest

from harness import results
from harness.errors import RecordError, UnknownSchema, UsageError
from harness.measure import record
from harness.measure.endpoint_facts import EndpointFacts
from harness.measure.record import Failure, RunRecord, Series
from harness.measure.statistics import estimate, smallest_n
from tests.site import factory


def _record(*series: Series, day: int = 1, **changes: object) -> RunRecord:
    return dataclasses.replace(factory.cold_start("full", day=day), series=series, **changes)  # type: ignore[arg-type]


def _series(samples: list[float], **dimensions: record.Scalar) -> Series:
    return Series("first-reply", "s", "lower", dimensions, "closed", (), samples)


def test_every_sample_warm_up_and_failure_is_a_row(tmp_path: Path) -> None:
    series = Series(
        "first-reply", "s", "lower", {"tier": "full"}, "closed",
        warmup=[9.0, 8.0], samples=[1.0, 3.0, 4.0],
        failures=[Failure(1, "died"), Failure(4, "late")],
    )  # fmt: skip
    path = record.write(_record(series), tmp_path)
    frame = results.load(tmp_path)
    rows = frame[["phase", "index", "value", "failure"]].astype("object")
    assert rows.where(rows.notna(), None).values.tolist() == [
        ["sample", 0, 1.0, None],
        ["sample", 2, 3.0, None],
        ["sample", 3, 4.0, None],
        ["warmup", 0, 9.0, None],
        ["warmup", 1, 8.0, None],
        ["failure", 1, None, "died"],
        ["failure", 4, None, "late"],
    ]
    assert set(frame["record"]) == {str(path)}


def test_the_columns_are_as_documented(tmp_path: Path) -> None:
    for made in factory.whole(tmp_path)[:3]:
        assert made.series
    frame = results.load(tmp_path)
    wanted = {column.name: column.dtype for column in results.COLUMNS}
    found = {name: str(dtype) for name, dtype in frame.dtypes.items()}
    assert {name: found[name] for name in wanted} == wanted
    assert list(frame.columns) == [*wanted, "substrate", "tier", "concurrency", "accelerator"]
    row = frame.iloc[0]
    made = record.load(Path(row["record"]))
    assert (row["run_id"], row["machine_cores"], row["machine_kernel"], row["commit"]) == (
        made.run_id, made.machine.cores, made.machine.kernel, made.git.commit,
    )  # fmt: skip
    assert row["started"] == pandas.Timestamp(made.started)
    assert frame["function_only"].isna().all()


def test_a_service_is_told_from_the_machine_of_its_client(tmp_path: Path) -> None:
    service = EndpointFacts("theirs", "cubesandbox", "https://cube.example")
    refused = (Failure(1, "429", "refused"), Failure(2, "500"))
    series = Series("usable", "s", "lower", {"system": "cubesandbox"}, "open", (), [1.0], refused)
    record.write(_record(series, endpoint=service), tmp_path)
    record.write(_record(_series([1.0], substrate="qemu"), day=2), tmp_path)
    frame = results.load(tmp_path)
    assert list(frame["system"]) == ["cubesandbox"] * 3 + ["qemu"]
    assert list(frame["endpoint"].astype("object").fillna("")) == ["theirs"] * 3 + [""]
    assert list(frame["failure_kind"].astype("object").fillna("")) == ["", "refused", "failed", ""]
    summary = results.summary(frame)
    assert list(summary["endpoint_address"].astype("object").fillna("")) == [service.address, ""]
    assert "failure_kind" not in summary


def test_dimensions_keep_their_names_and_types(tmp_path: Path) -> None:
    record.write(
        _record(
            _series([1.0], cores=1, ratio=0.5, on=True, kind="a", mixed=1, path="veth"),
            _series([2.0], cores=2, ratio=2, on=None, kind="b", mixed="x", unit="typed"),
            dataclasses.replace(_series([3.0]), dimensions={"samples": 7}),
        ),
        tmp_path,
    )
    frame = results.load(tmp_path)
    dtypes = {name: str(frame[name].dtype) for name in ("cores", "ratio", "on", "kind", "mixed")}
    assert dtypes == {
        "cores": "Int64", "ratio": "Float64", "on": "boolean", "kind": "category",
        "mixed": "category",
    }  # fmt: skip
    assert frame["cores"].tolist() == [1, 2, pandas.NA]
    assert frame["machine_cores"].tolist() == [2, 2, 2]
    # A dimension with the name of another column is renamed.
    assert frame["unit"].tolist() == ["s"] * 3
    assert frame["dimension_unit"].tolist()[1] == "typed"
    assert frame["dimension_samples"].tolist() == [pandas.NA, pandas.NA, 7]
    assert frame["path"].tolist()[0] == "veth"
    assert frame.columns.is_unique and results.summary(frame).columns.is_unique


def test_sources_may_be_files_directories_globs_and_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [record.write(factory.cold_start("full", day=day), tmp_path / "r") for day in (1, 2)]
    (tmp_path / "r" / "published").mkdir()
    (tmp_path / "r" / "note.json").write_text("{}", encoding="utf-8")
    wanted = {"20261101T120000Z", "20261102T120000Z"}
    monkeypatch.chdir(tmp_path)
    several: tuple[results.Sources, ...] = (
        "r/**", "r", "r/*/*.run.json", Path("r"), paths, map(str, paths), [str(paths[0]), "r/**"],
        [tmp_path / "r" / factory.HOST, "r"], str(tmp_path / "r" / "**"),
    )  # fmt: skip
    for sources in several:
        frame = results.load(sources)
        assert {run[:16] for run in frame["run_id"].unique()} == wanted, sources
        assert len(frame) == 2 * len(results.load(paths[0])), sources
    os.rename(paths[0], "renamed.json")  # noqa: PTH104
    assert results.load("renamed.json")["run_id"].nunique() == 1


@pytest.mark.parametrize("sources", ["none", "none/**", ["r", "none"], []])
def test_sources_without_records_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: str | list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    record.write(factory.cold_start("full"), Path("r"))
    with pytest.raises(UsageError, match=r"no run record|no source"):
        results.load(sources)


def test_unreadable_records_are_refused_or_skipped_with_a_warning(tmp_path: Path) -> None:
    good = record.write(factory.cold_start("full"), tmp_path)
    newer, torn = good.with_name("newer.run.json"), good.with_name("torn.run.json")
    newer.write_text(
        json.dumps({**json.loads(good.read_text(encoding="utf-8")), "schema": "coppice.run/2"}),
        encoding="utf-8",
    )
    with pytest.raises(UnknownSchema, match=r"newer\.run\.json.*coppice\.run/2"):
        results.load(tmp_path)
    newer.unlink()
    torn.write_text(good.read_text(encoding="utf-8")[:-100], encoding="utf-8")
    with pytest.raises(RecordError, match=r"torn\.run\.json is not JSON"):
        results.load(tmp_path)
    newer.write_text('{"schema": "coppice.run/2"}', encoding="utf-8")
    with pytest.warns(results.RecordSkipped) as warned:
        frame = results.load(tmp_path, errors="skip")
    assert [str(warning.message).split(".run.json")[0][-5:] for warning in warned] == [
        "newer",
        "/torn",
    ]
    assert set(frame["record"]) == {str(good)}
    with pytest.raises(UsageError, match="neither"):
        results.load(tmp_path, errors="ignore")  # type: ignore[arg-type]


def test_the_summary_has_the_figures_of_each_series(tmp_path: Path) -> None:
    many = factory.samples(0.01, smallest_n(95) + 5, "many")
    few = [0.3, 0.1, 0.2]
    paths = [
        record.write(
            _record(
                _series(many, n=1),
                dataclasses.replace(_series(few, n=2), warmup=[5.0], failures=[Failure(0, "died")]),
                dataclasses.replace(_series([], n=3), failures=[Failure(0, "x"), Failure(1, "x")]),
                day=day,
            ),
            tmp_path,
        )
        for day in (1, 2)
    ]
    frame = results.load(tmp_path)
    # The order of rows does not matter.
    for given in (frame, frame.sample(frac=1, random_state=1)):
        found = results.summary(given).sort_values(["record", "series"]).reset_index(drop=True)
        assert found["record"].tolist() == [str(path) for path in paths for _ in range(3)]
        assert found["samples"].tolist() == [len(many), 3, 0] * 2
        assert found["failed"].tolist() == [0, 1, 2] * 2
        assert found["n"].tolist() == [1, 2, 3] * 2
        for percent in (50, 90, 95):
            wanted = estimate(many, percent)
            names = [f"p{percent}{end}" for end in ("", "_low", "_high")]
            assert found.loc[0, names].tolist() == [wanted.value, wanted.low, wanted.high]
        assert found.loc[0, ["min", "max"]].tolist() == [min(many), max(many)]
        assert found.loc[1, ["p50", "min", "max"]].tolist() == [0.2, 0.1, 0.3]
        # Figures that need more samples are missing.
        assert found.loc[0, ["p99", "p99_low"]].isna().all()
        assert found.loc[1, ["p50_low", "p50_high", "p90", "p95"]].isna().all()
        assert found.loc[2, ["min", "p50", "max"]].isna().all()


def test_a_filtered_frame_is_summarised_without_the_removed_rows(tmp_path: Path) -> None:
    record.write(_record(_series([1.0, 2.0, 9.0])), tmp_path)
    frame = results.load(tmp_path)
    (row,) = results.summary(frame[frame["value"] < 5]).to_dict("records")
    assert (row["samples"], row["max"]) == (2, 2.0)
    assert results.summary(frame[frame["value"] > 99]).empty
