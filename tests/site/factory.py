"""Records for tests of the site: seeded random samples, marked as test-only in every string.

They have the shape of what the cold-start rig writes and are never written to results/.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from pathlib import Path

from harness.measure import record
from harness.measure.endpoint_facts import EndpointFacts
from harness.measure.record import (
    Clock,
    Command,
    Failure,
    Git,
    Harness,
    Image,
    Machine,
    Rig,
    RunRecord,
    Scalar,
    Series,
    Validity,
)

HOST = "test-host"
RUNGS = ("object", "resumed", "first-reply", "first-exec", "first-touch")
_MEDIANS = {
    "full": (0.028, 0.031, 1.52, 1.61, 1.64),
    "durable-pool": (0.0021, 0.0079, 0.0148, 0.029, 0.041),
    "durable-prewarm-pool": (0.00003, 0.00021, 0.00052, 0.0031, 0.0064),
    "prewarm-pool": (0.00003, 0.00020, 0.00047, 0.0029, 0.0061),
    "noop": (0.000011, 0.000018, 0.000031, 0.000042, 0.000049),
}
_COUNTS = {"full": 30, "durable-pool": 100}


def machine(id: str = HOST, accelerator: str | None = "tcg") -> Machine:
    return Machine(
        id=id,
        name=f"Test host {id} (made up)",
        class_="virtual-machine",
        cpu="Imaginary CPU at a made-up clock",
        microcode=None,
        cores=2,
        memory_bytes=8 * 2**30,
        storage="imaginary disk",
        os="Debian GNU/Linux (test)",
        kernel="6.1.0-test",
        virtualisation="kvm guest (test)",
        accelerator=accelerator,
        before={"load": 0.25, "swap_in": 0, "kernel_warnings": 3},
        after={"load": 1.75, "swap_in": 0, "kernel_warnings": 3},
    )


def samples(median: float, n: int, seed: str) -> list[float]:
    """Log-normal around `median` with a light tail."""
    random_ = random.Random(seed)
    return [
        median
        * math.exp(random_.gauss(0, 0.09))
        * (1 + (random_.random() < 0.04) * random_.expovariate(1.2))
        for _ in range(n)
    ]


def cold_start(
    tier: str,
    concurrency: int = 1,
    *,
    substrate: str = "qemu",
    profile: str = "full",
    n: int | None = None,
    failures: Sequence[Failure] = (),
    validity: Validity | None = None,
    day: int = 1,
    host: Machine | None = None,
    seed: str = "",
) -> RunRecord:
    """One record: one substrate, tier and concurrency, with its five metrics."""
    name = f"{substrate}/{tier}/{concurrency}/{profile}/{day}/{seed}"
    medians = _MEDIANS["noop" if substrate == "noop" else tier]
    count = n if n is not None else _COUNTS.get(tier, 400) if substrate != "noop" else 400
    host = host or machine(accelerator=None if substrate == "noop" else "tcg")
    spread = 1 + 0.6 * math.log2(concurrency) if concurrency > 1 else 1.0
    series = tuple(
        Series(
            metric=metric,
            unit="s",
            better="lower",
            dimensions={
                "substrate": substrate,
                "tier": tier,
                "concurrency": concurrency,
                "accelerator": host.accelerator,
            },
            loop="closed",
            warmup=samples(median * 3, 2, f"{name}/{metric}/warmup"),
            samples=samples(median * spread, count, f"{name}/{metric}"),
            failures=tuple(failures),
        )
        for metric, median in zip(RUNGS, medians, strict=True)
    )
    digest = random.Random(name).randbytes(32).hex()
    stamp = f"202611{day:02d}T120000Z"
    task = "bench:noop" if substrate == "noop" else f"bench:{substrate}-{tier}"
    return RunRecord(
        run_id=f"{stamp}-{digest[:8]}",
        started=f"2026-11-{day:02d}T12:00:00Z",
        finished=f"2026-11-{day:02d}T12:05:00Z",
        profile=profile,
        rig=Rig("cold-start", "rigs/test_cold_start.py", digest),
        claims=("made-up-claim",),
        command=Command(("pytest", "rigs/", "-k", tier), "checkout", {}, f"mise run {task}"),
        git=Git("0123456789abcdef0123456789abcdef01234567", False),
        patches=(),
        images=(Image("guest (made up)", digest, {"kernel": "6.1-test", "modules": 4}),),
        machine=host,
        clock=Clock(
            id="cold-start",
            start="the caller asks the pool (test)",
            stop={metric: f"{metric} happens (test)" for metric in RUNGS},
            source="perf_counter_ns",
            resolution_ns=1,
            overhead_ns=48.5,
        ),
        series=series,
        validity=validity or Validity("valid"),
        tools={"qemu": "7.2 (test)"},
        harness=Harness("0.1.0"),
    )


def service(number: int = 1, **facts: object) -> EndpointFacts:
    """A made-up service of CubeSandbox; services differ in their addresses."""
    values: dict[str, object] = {
        "name": f"test cluster {number}",
        "system": "cubesandbox",
        "address": f"https://cube-{number}.test.example",
        "told": {"template": "tpl-test", "price": "0.05 a second (test)"},
        "answered": {"server": "test-server/1", "envd": "0.9-test"},
        "unknown": ("its machine", "what else ran there"),
        "not_offered": {"POST /v2/sandboxes": "405"},
        "limits": {"at once": 50, "a second": 10},
        **facts,
    }
    return EndpointFacts(**values)  # type: ignore[arg-type]


def of_rig(
    rig: str,
    *series: Series,
    day: int = 1,
    endpoint: EndpointFacts | None = None,
    validity: Validity | None = None,
    profile: str = "full",
) -> RunRecord:
    """A record of a rig with these series, of a service if one is given."""
    base = cold_start("full", day=day, n=1, seed=f"{rig}/{endpoint and endpoint.identity}")
    return dataclasses.replace(
        base,
        rig=dataclasses.replace(base.rig, id=rig, path=f"rigs/test_{rig.replace('-', '_')}.py"),
        series=series,
        endpoint=endpoint,
        profile=profile,
        validity=validity or base.validity,
        command=dataclasses.replace(base.command, task=f"mise run bench:{rig}"),
    )


def timing(metric: str, median: float, n: int = 100, /, **dimensions: Scalar) -> Series:
    """A series of made-up times around a median."""
    return Series(metric, "s", "lower", dimensions, "closed",
                  samples=samples(median, n, f"{metric}/{sorted(dimensions.items())}"))  # fmt: skip


def whole(results: Path) -> list[RunRecord]:
    """Every tier at three concurrencies, `noop`, a suspect run, a failing run, a quick one."""
    made = []
    for tier in ("full", "durable-pool", "durable-prewarm-pool", "prewarm-pool"):
        for many in (1, 10, 50):
            if (tier, many) == ("full", 50):
                continue
            validity: Validity | None = None
            failures: tuple[Failure, ...] = ()
            if (tier, many) == ("prewarm-pool", 1):
                validity = Validity("suspect", ("load from elsewhere (test)",))
            if (tier, many) == ("durable-pool", 10):
                failures = (Failure(3, "no answer within the limit (test)"), Failure(41, "died"))
            made.append(cold_start(tier, many, validity=validity, failures=failures))
    made.append(cold_start("durable-prewarm-pool", substrate="noop"))
    made.append(cold_start("durable-prewarm-pool", profile="quick", n=20, day=2))
    for one in made:
        record.write(one, results)
    return made
