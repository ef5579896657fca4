"""The cold-start rig when guests fail: the record keeps each failure, and the test fails."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import GuestTimeout
from harness.host.run import Run
from harness.measure import record
from harness.measure.clock import cold_start_clock
from harness.rig import discover
from harness.rig_run import RigRun
from harness.sandbox.identity import Identity
from harness.sandbox.noop import NoopSandbox, NoopSubstrate, NoopTemplate
from harness.sandbox.protocol import Tier

ROOT = Path(__file__).parents[2]


class Faulty(NoopSandbox):
    """A fake: every third one never answers."""

    count = 0

    def awaken(self, timeout_s: float) -> float:
        Faulty.count += 1
        if Faulty.count % 3 == 0:
            raise GuestTimeout("it sleeps on")
        return super().awaken(timeout_s)


class FaultySubstrate(NoopSubstrate):
    def launch(
        self, run: Run, template: NoopTemplate, tier: Tier, identity: Identity
    ) -> NoopSandbox:
        return Faulty(identity)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Any:
    discover(ROOT / "rigs")
    module = sys.modules["rigs.test_cold_start"]
    monkeypatch.setattr(module, "load", lambda name: FaultySubstrate())
    return module


@pytest.mark.parametrize("concurrency", [1, 3])
def test_failures_stay_in_the_record(run: Run, rig: Any, tmp_path: Path, concurrency: int) -> None:
    case = rig.Case("noop", Tier.DURABLE_PREWARM_POOL, concurrency)
    collected = RigRun(ROOT, tmp_path, "quick")
    series = rig.measure(case, run, collected, 12)
    path = collected.write(rig.RIG, Path(rig.__file__), series, cold_start_clock(), "a test")
    found = record.load(path)
    assert {one.metric for one in found.series} == set(rig.RUNGS)
    for one in found.series:
        assert (len(one.samples), len(one.failures)) == (8, 4), one.metric
        assert {bad.reason for bad in one.failures} == {"GuestTimeout: it sleeps on"}
        assert len({bad.index for bad in one.failures}) == 4
