"""pytest-benchmark stores the durations that rigs measured: exactly, in order, no failures."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from harness.measure import record
from harness.measure.benchmark import Stopwatch
from tests.measure.factory import run_record

pytest_plugins = ("pytester",)

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
FILTERS = PROJECT["tool"]["pytest"]["ini_options"]["filterwarnings"]
# The inner session treats warnings as the rigs' does.
INNER = ["-p", "no:cacheprovider", *(f"-W{one}" for one in FILTERS)]

# Durations that a difference of two readings of a real clock would not give back to the last bit.
SAMPLES = [0.017, 0.1 + 0.2, 1e-9, 0.0169, 2.5, 0.05, 0.0]

HEAD = f"""
import threading, time
import pytest
from harness.errors import GuestDied
from harness.measure import record
from harness.measure.benchmark import STOPWATCH, deliver

SAMPLES = {SAMPLES!r}
"""

PLAIN = (
    HEAD
    + """
@pytest.mark.benchmark(timer=STOPWATCH, group="cold start")
def test_rig(benchmark):
    deliver(benchmark, SAMPLES, run_id="20260102T030405Z-0123abcd")
"""
)


def _run(
    pytester: pytest.Pytester, rig: str, *options: str, **outcomes: int
) -> list[dict[str, Any]]:
    """Run a rig in its own process; the benchmarks in the file that it writes."""
    pytester.makepyfile(rig)
    result = pytester.runpytest_subprocess(*INNER, *options, "--benchmark-json=out.json")
    result.assert_outcomes(**(outcomes or {"passed": 1}))
    assert result.ret == pytest.ExitCode.OK
    return _benchmarks()


def _benchmarks() -> list[dict[str, Any]]:
    """The file's benchmarks; pytest-benchmark leaves it empty when nothing was measured."""
    text = Path("out.json").read_text(encoding="utf-8") if Path("out.json").exists() else ""
    found: list[dict[str, Any]] = json.loads(text)["benchmarks"] if text else []
    return found


def test_the_file_holds_exactly_the_samples_in_order(pytester: pytest.Pytester) -> None:
    (found,) = _run(pytester, PLAIN)
    assert found["stats"]["data"] == SAMPLES
    assert (found["stats"]["rounds"], found["stats"]["iterations"]) == (len(SAMPLES), 1)
    # The file shows that the clock was not Python's.
    assert "STOPWATCH" in found["options"]["timer"]
    assert found["group"] == "cold start"
    assert found["extra_info"] == {"run_id": "20260102T030405Z-0123abcd"}


@pytest.mark.parametrize(
    "options",
    [
        ("--benchmark-disable-gc",),
        ("--benchmark-warmup=on",),
        ("--benchmark-min-rounds=50", "--benchmark-max-time=0.001"),
        ("--benchmark-cprofile=tottime",),
        ("--benchmark-only",),
    ],
)
def test_no_option_changes_the_samples(pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    (found,) = _run(pytester, PLAIN, *options)
    assert found["stats"]["data"] == SAMPLES


def test_disabled_stores_nothing_and_does_not_fail(pytester: pytest.Pytester) -> None:
    assert _run(pytester, PLAIN, "--benchmark-disable") == []


def test_skipped_by_the_user(pytester: pytest.Pytester) -> None:
    assert _run(pytester, PLAIN, "--benchmark-skip", skipped=1) == []


def test_one_stopwatch_serves_many_tests(pytester: pytest.Pytester) -> None:
    rig = (
        HEAD
        + """
@pytest.mark.benchmark(timer=STOPWATCH)
@pytest.mark.parametrize("count", [1, 3, 2])
def test_rig(benchmark, count):
    deliver(benchmark, SAMPLES[:count], count=count)
"""
    )
    found = _run(pytester, rig, passed=3)
    assert [one["stats"]["data"] for one in found] == [SAMPLES[:1], SAMPLES[:3], SAMPLES[:2]]
    assert [one["extra_info"]["count"] for one in found] == [1, 3, 2]


def test_the_records_digest_may_be_added_later(pytester: pytest.Pytester, tmp_path: Path) -> None:
    path = record.write(run_record(), tmp_path)
    rig = (
        HEAD
        + f"""
from pathlib import Path

@pytest.fixture(scope="module")
def delivered():
    found = []
    yield found
    for extra in found:
        extra["record_sha256"] = record.digest(Path({str(path)!r}))

@pytest.mark.benchmark(timer=STOPWATCH)
def test_rig(benchmark, delivered):
    delivered.append(deliver(benchmark, SAMPLES, run_id="x"))
"""
    )
    (found,) = _run(pytester, rig)
    assert found["extra_info"] == {"run_id": "x", "record_sha256": record.digest(path)}


def test_samples_taken_by_concurrent_threads(pytester: pytest.Pytester) -> None:
    rig = (
        HEAD
        + """
@pytest.mark.benchmark(timer=STOPWATCH)
def test_rig(benchmark):
    took = [0.0] * 20
    barrier = threading.Barrier(len(took))
    def one(index):
        barrier.wait()
        start = time.perf_counter()
        time.sleep(0.02)
        took[index] = time.perf_counter() - start
    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(took))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deliver(benchmark, took, took=took)
"""
    )
    (found,) = _run(pytester, rig)
    assert found["stats"]["data"] == found["extra_info"]["took"]
    # They overlapped: the sum is 20 times as long as the test took.
    assert len(found["stats"]["data"]) == 20 and min(found["stats"]["data"]) >= 0.02


def test_a_rig_without_samples_fails_with_the_reason(pytester: pytest.Pytester) -> None:
    rig = (
        HEAD
        + """
@pytest.mark.benchmark(timer=STOPWATCH)
def test_rig(benchmark):
    deliver(benchmark, [], run_id="x")
"""
    )
    pytester.makepyfile(rig)
    result = pytester.runpytest_subprocess(*INNER, "--benchmark-json=out.json")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*SandboxError: no sample to deliver: every attempt failed*"])
    assert _benchmarks() == []


def test_a_missing_timer_is_an_error(pytester: pytest.Pytester) -> None:
    rig = HEAD + "def test_rig(benchmark):\n    deliver(benchmark, SAMPLES)\n"
    pytester.makepyfile(rig)
    result = pytester.runpytest_subprocess(*INNER, "--benchmark-json=out.json")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*mark the test with @pytest.mark.benchmark(timer=STOPWATCH)*"])
    # A failed benchmark stores no invalid samples.
    assert _benchmarks() == []


@pytest.mark.parametrize("bad", ["nan", "inf", "-0.001"])
def test_samples_that_are_not_durations_are_refused(pytester: pytest.Pytester, bad: str) -> None:
    rig = PLAIN.replace("benchmark, SAMPLES,", f"benchmark, [0.1, float({bad!r})],")
    pytester.makepyfile(rig)
    result = pytester.runpytest_subprocess(*INNER, "--benchmark-json=out.json")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ValueError: 1 samples are not durations, the first is *"])
    assert _benchmarks() == []


def test_a_rig_without_samples_fails_when_disabled_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PLAIN.replace("SAMPLES,", "[],"))
    result = pytester.runpytest_subprocess(*INNER, "--benchmark-disable")
    result.assert_outcomes(failed=1)


def test_a_stopwatch_returns_0_and_then_the_duration() -> None:
    watch = Stopwatch()
    watch.show(0.017)
    assert (watch(), watch()) == (0.0, 0.017)
    watch()  # an interrupted interval does not affect the next
    watch.show(2.0)
    assert (watch(), watch()) == (0.0, 2.0)
