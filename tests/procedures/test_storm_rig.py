"""The storm rig from the command to the record: the arrivals can be made again from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.load import arrivals
from harness.load.arrivals import Lifetime
from harness.measure.record import RunRecord, find, load
from tests.host.processes import ROOT


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPPICE_RUNTIME", str(tmp_path / "runtime"))


def measured(results: Path, **options: object) -> RunRecord:
    """The record of a storm on `noop`, in the smoke profile."""
    given = [f"--coppice-set={name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "rigs/test_storm.py", "-q", "-p", "no:cacheprovider",
            "-k", "noop and not reach", "--coppice-profile=smoke", f"--coppice-results={results}",
            *given,
        ],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    (path,) = find(results)
    return load(path)


def test_the_arrivals_of_a_record_can_be_made_again(tmp_path: Path) -> None:
    record = measured(tmp_path, rate=80, n=12, seed=7, lifetime="0.1,0.2")
    again = arrivals.poisson(80, 12, 7, Lifetime(0.1, 0.2))
    (image,) = (image for image in record.images if image.name.startswith("arrivals"))
    assert image.sha256 == again.digest
    assert image.built_from == {"n": 12, "seed": 7, "arrivals": "poisson", "rate": 80}
    assert "--seed 7" in record.command.task
    assert all(series.loop == "open" for series in record.series)
    by_name = {series.metric: series for series in record.series}
    assert len(by_name["usable"].samples) == len(by_name["teardown"].samples) == 12
    assert list(by_name["leaked"].samples) == [0]


def test_a_sweep_keeps_the_series_of_each_rate_that_it_offered(tmp_path: Path) -> None:
    record = measured(tmp_path, sweep="yes", rate=20, bound="60s", step="500ms")
    first, *others = record.series
    assert first.metric == "capacity" and first.unit == "1/s" and first.better == "higher"
    rates = [series.dimensions["rate"] for series in others if series.metric == "usable"]
    assert rates in ([20, 40], [20, 10])  # on a busy machine the first may not hold
    for rate in rates:
        of_rate = {series.metric for series in others if series.dimensions.get("rate") == rate}
        assert {"usable", "queue", "lateness"} <= of_rate
    assert len([image for image in record.images if image.name.startswith("arrivals")]) == 2
