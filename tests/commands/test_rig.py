"""The cold-start rig and `coppice run`, from the command to the record."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.errors import GuestTimeout
from harness.host.identity import Identity
from harness.host.requirement import Requirement
from harness.host.run import Run
from harness.host.session import open_run
from harness.measure.record import RunRecord, digest, find, load
from harness.measure.record_digests import beside
from harness.procedures.ladder import RUNGS
from harness.rig.discovery import discover
from harness.rig.recorder import RigRun
from harness.sandbox.noop import NoopSandbox, NoopTemplate
from harness.sandbox.protocol import Role, Tier
from tests.commands.plugins import loaded_by_rigs
from tests.commands.tools import ROOT, only
from tests.host.processes import coppice


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "runtime"
    monkeypatch.setenv("COPPICE_RUNTIME", str(directory))
    return directory


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def rigs(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on rigs/, as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "rigs/", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def records(results: Path) -> list[RunRecord]:
    return [load(path) for path in find(results)]


def test_pytest_benchmark_has_the_samples_of_the_record_in_order(
    results: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    done = rigs(
        f"--benchmark-json={out}", "-k", "cold_start and noop", f"--coppice-results={results}"
    )
    assert done.returncode == 0, done.stdout
    by_id = {load(path).run_id: path for path in find(results)}
    benchmarks = json.loads(out.read_text(encoding="utf-8"))["benchmarks"]
    assert len(benchmarks) == len(by_id) == 2
    for benchmark in benchmarks:
        path = by_id[benchmark["extra_info"]["run_id"]]
        record = load(path)
        assert benchmark["extra_info"]["record"] == path.name
        assert benchmark["extra_info"]["record_sha256"] == digest(path)
        claimed = next(series for series in record.series if series.metric == "first-reply")
        assert benchmark["stats"]["data"] == list(claimed.samples)
        assert {series.metric for series in record.series} == set(RUNGS)
        assert record.rig.id == "cold-start" and record.rig.path == "rigs/test_cold_start.py"
        assert record.images == ()
        assert all(not series.failures for series in record.series)


def test_at_concurrency_1_the_rungs_of_an_attempt_are_in_order(results: Path) -> None:
    done = coppice(
        "run", "cold-start", "--substrate", "noop", "--concurrency", "1",
        "--results", str(results),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (record,) = records(results)
    assert record.command.task == "mise run bench:noop-durable-prewarm-pool"
    columns = [
        next(series for series in record.series if series.metric == rung).samples for rung in RUNGS
    ]
    assert len(columns[0]) == 12
    for attempt in zip(*columns, strict=True):
        assert list(attempt) == sorted(attempt)
    (path,), (file,) = find(results), results.rglob("*.pytest-benchmark.json")
    assert file == beside(path)
    assert "substrate noop, tier durable-prewarm-pool, concurrency 1" in done.stdout
    assert f"records: {next(iter(find(results))).parent}" in done.stdout


def test_progress_has_a_line_for_each_measurement_and_each_reason_to_skip(
    results: Path,
) -> None:
    done = coppice("run", "cold-start", "--substrate", "noop", "--results", str(results))
    lines = [line.split() for line in done.stdout.splitlines() if " %  cold-start " in line]
    assert [line[3] for line in lines] == [
        "noop-durable-prewarm-pool-cc1", "noop-durable-prewarm-pool-cc10",
    ]  # fmt: skip
    claimed = [
        next(series for series in record.series if series.metric == "first-reply")
        for record in records(results)
    ]
    assert {line[4] for line in lines} == {"first-reply"}
    counts = {f"n={len(series.samples)}" for series in claimed}
    assert counts == {word for line in lines for word in line if word.startswith("n=")}
    assert "Not measured:\n  1 case: not in the quick profile" in done.stdout


def test_a_failed_rig_has_its_own_line_and_decides_the_exit_code(results: Path) -> None:
    # A rig that fails: its record is refused, as it is not valid.
    done = coppice(
        "run", "cold-start", "--substrate", "noop", "--results", str(results),
        **loaded_by_rigs(results / "plugins", "tests.commands.failing_rig"),
    )  # fmt: skip
    assert done.returncode == 1
    assert len([line for line in done.stdout.splitlines() if "cold-start " in line]) == 2
    assert done.stdout.count("FAILED   ") == 2 and "INTERNALERROR" not in done.stdout


def test_a_tier_is_selected_by_its_name(results: Path) -> None:
    done = rigs("--collect-only", "-q", "-k", "qemu-durable-pool")
    ids = [line.split("[")[1][:-1] for line in done.stdout.splitlines() if "[" in line]
    assert ids == [
        "qemu-durable-pool-cc1", "qemu-durable-pool-spawned-cc1",
        "qemu-durable-pool-cc10", "qemu-durable-pool-cc50",
    ]  # fmt: skip


def test_forkable_tiers_are_measured_forked_too() -> None:
    done = rigs("--collect-only", "-q", "-k", "forked and cold_start")
    ids = [line.split("[")[1][:-1] for line in done.stdout.splitlines() if "[" in line]
    assert ids == [f"qemu-durable-prewarm-pool-forked-cc{many}" for many in (1, 10, 50)]


def test_options_deselect_other_cases() -> None:
    done = rigs(
        "--collect-only",
        "-q",
        "--coppice-substrate=qemu",
        "--coppice-tier=full",
        "--coppice-concurrency=10",
    )
    ids = [line.split("[")[1][:-1] for line in done.stdout.splitlines() if "[" in line]
    assert ids == ["qemu-full-cc10"]


class MuteSandbox(NoopSandbox):
    """A fake that never answers."""

    def awaken(self, timeout_s: float) -> float:
        raise GuestTimeout(f"{self.id} did not answer")


class FlakySandbox(NoopSandbox):
    """A fake: every second sandbox answers."""

    made = 0

    def awaken(self, timeout_s: float) -> float:
        FlakySandbox.made += 1
        if FlakySandbox.made % 2:
            raise GuestTimeout("every second sandbox fails")
        return super().awaken(timeout_s)


class FakeSubstrate:
    """Makes fake sandboxes of one kind."""

    name = "noop"
    role = Role.CONTROL
    own_kernel = False
    tiers = (Tier.DURABLE_PREWARM_POOL,)
    tools: Sequence[str] = ()
    not_offered: Mapping[str, str] = {}

    def __init__(self, kind: type[NoopSandbox]) -> None:
        self._kind = kind

    def requirements(self) -> Sequence[Requirement]:
        return []

    def memory_per_sandbox(self, tier: Tier) -> int:
        return 0

    def prepare(self, run: Run, cache: Path, tier: Tier) -> NoopTemplate:
        return NoopTemplate()

    def launch(
        self, run: Run, template: NoopTemplate, tier: Tier, identity: Identity
    ) -> NoopSandbox:
        return self._kind(identity)


class FakeBenchmark:
    """Accepts whatever the rig stores."""


def rig_with(kind: type[NoopSandbox], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The rig's module, with sandboxes of the given class."""
    discover()
    module = importlib.import_module("rigs.test_cold_start")
    monkeypatch.setattr(module, "load", lambda name: FakeSubstrate(kind))
    return module


@pytest.mark.parametrize("concurrency", [1, 10])
def test_when_every_attempt_fails_the_record_and_the_test_fail(
    concurrency: int, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = rig_with(MuteSandbox, monkeypatch)
    case = module.Case("noop", Tier.DURABLE_PREWARM_POOL, concurrency)
    count = module.PLANS["quick"][case.tier][concurrency]
    with open_run() as run:
        rig_run = RigRun(results, "quick")
        with pytest.raises(AssertionError, match=r"no cold start succeeded.*did not answer"):
            module.test_cold_start(case, FakeBenchmark(), run, rig_run, "quick")
        assert list(run.leases.iterdir()) == [], "failed sandboxes must be destroyed too"
    (record,) = records(results)
    for series in record.series:
        assert not series.samples
        assert [failure.index for failure in series.failures] == list(range(count))
        assert all(failure.reason.startswith("GuestTimeout: ") for failure in series.failures)
    assert record.validity.status != "valid"


def test_failed_attempts_keep_their_index_among_the_successful(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = rig_with(FlakySandbox, monkeypatch)
    monkeypatch.setattr(FlakySandbox, "made", 1)  # the only attempt of the warm-up succeeds
    case = module.Case("noop", Tier.DURABLE_PREWARM_POOL, 1)
    with open_run() as run:
        series = module.measure(case, run, RigRun(results, "quick"), 10, 0)
    for rung in series:
        assert len(rung.warmup) == (rung.metric != "first-touch") and len(rung.samples) == 5
        assert [failure.index for failure in rung.failures] == [0, 2, 4, 6, 8]


@pytest.fixture(scope="module")
def without_qemu(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with every program of this host except QEMU."""
    tools = tmp_path_factory.mktemp("tools")
    for place in dict.fromkeys(Path(entry).resolve() for entry in os.environ["PATH"].split(":")):
        for program in place.iterdir() if place.is_dir() else ():
            link = tools / program.name
            if not program.name.startswith("qemu-") and not link.is_symlink():
                link.symlink_to(program)
    return str(tools)


def test_without_qemu_a_rig_is_skipped_with_the_reason_and_the_command(
    results: Path, tmp_path: Path, without_qemu: str
) -> None:
    done = rigs(
        "-k", "qemu-durable-pool-cc1", f"--coppice-results={results}", "-vv",
        f"--benchmark-json={tmp_path / 'out.json'}", PATH=without_qemu,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 skipped" in done.stdout and "failed" not in done.stdout
    assert "qemu-system-x86_64 is not installed" in done.stdout
    assert "apt-get install qemu-system-x86" in done.stdout
    assert not list(find(results))


def test_without_qemu_the_command_exits_with_69(results: Path, without_qemu: str) -> None:
    done = coppice(
        "run", "cold-start", "--substrate", "qemu", "--results", str(results),
        PATH=without_qemu,
    )  # fmt: skip
    assert done.returncode == 69 and "Traceback" not in done.stderr
    assert "coppice: qemu needs qemu-system-x86_64; not installed" in done.stderr
    assert "apt-get install qemu-system-x86" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "no rig is called 'nope'\n  rigs: cold-start"),
        (["cold-start", "--substrate", "nope"], "no substrate is named 'nope'"),
        (["cold-start", "--tier", "nope"], "no tier is called 'nope'\n  tiers: full"),
        ([], "name a rig, or use --all"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(arguments: list[str], message: str) -> None:
    done = coppice("run", *arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith(f"coppice: {message}")


def test_a_selection_that_has_no_case_is_a_mistake(results: Path) -> None:
    done = coppice(
        "run", "cold-start", "--substrate", "noop", "--concurrency", "7", "--results", str(results)
    )
    assert done.returncode == 64
    assert "Traceback" not in done.stderr + done.stdout
    assert "no case of cold-start has --substrate=noop --concurrency=7" in done.stderr


def test_git_is_optional(results: Path, tmp_path: Path) -> None:
    path = str(only(tmp_path / "tools", ("sh",)))
    assert shutil.which("git", path=path) is None
    done = coppice(
        "run", "cold-start", "--substrate", "noop", "--concurrency", "1",
        "--results", str(results), PATH=path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert records(results)[0].git.commit is None


def test_options_that_no_chosen_rig_declares_are_refused(results: Path) -> None:
    done = coppice("run", "cold-start", "--n", "8", "--results", str(results))
    assert done.returncode in (2, 64) and "--n" in done.stderr


def test_an_option_reaches_the_rig_by_its_name(results: Path) -> None:
    given = {"n": "8,50"}
    assert RigRun(results, "quick", given).option("n") == "8,50"
    assert RigRun(results, "quick").option("n") is None


def test_measured_alike_lists_earlier_versions_of_the_rigs_file() -> None:
    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout

    if not (ROOT / ".git").exists() or git("rev-parse", "--is-shallow-repository") != b"false\n":
        pytest.skip("needs this checkout's history")
    for rig in discover().found.values():
        path, info = rig.path, rig.info
        file = f"rigs/{path.name}"
        states = (
            git("log", "--format=%H", "--", file).decode().split() if info.measured_alike else ()
        )
        known = {hashlib.sha256(git("show", f"{state}:{file}")).hexdigest() for state in states}
        assert set(info.measured_alike) <= known, file


def test_a_tier_that_the_substrate_lacks_is_named(results: Path) -> None:
    done = coppice(
        "run", "cold-start", "--substrate", "noop", "--tier", "full", "--results", str(results)
    )
    assert done.returncode == 64
    assert "noop has no tier full" in done.stderr and "durable-prewarm-pool" in done.stderr
