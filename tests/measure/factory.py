"""Records for tests, with invented values; none is ever written to results/."""

from __future__ import annotations

from typing import Any

from harness.measure import record

RUN_ID = "20260102T030405Z-0123abcd"


def series(**changes: Any) -> record.Series:
    values: dict[str, Any] = {
        "metric": "first-reply",
        "unit": "s",
        "better": "lower",
        "dimensions": {"substrate": "noop", "concurrency": 1, "pinned": False, "tier": None},
        "loop": "closed",
        "warmup": (0.5,),
        "samples": (0.1, 0.30000000000000004, 0.2),
        "failures": (record.Failure(1, "GuestTimeout: no answer within 5 s"),),
    }
    return record.Series(**(values | changes))


def run_record(**changes: Any) -> record.RunRecord:
    values: dict[str, Any] = {
        "run_id": RUN_ID,
        "started": "2026-01-02T03:04:05.000000Z",
        "finished": "2026-01-02T03:04:06.000000Z",
        "profile": "quick",
        "rig": record.Rig("cold-start", "rigs/test_cold_start.py", "a" * 64),
        "claims": ("a-claim",),
        "command": record.Command(
            ("pytest", "rigs"), "/somewhere", {"COPPICE_HOST": "x"}, "bin/mise run bench"
        ),
        "git": record.Git("b" * 40, False),
        "patches": (record.Patch("patches/one/one.diff", "c" * 64, False),),
        "images": (record.Image("guest", "d" * 64, {"kernel": "6.1", "modules": 4}),),
        "machine": record.Machine(
            id="a-machine", name="A machine, 2 cores", class_="virtual-machine", cpu="A",
            microcode=None, cores=2, memory_bytes=2**34, storage="SSD, ext4", os="Debian",
            kernel="Linux 6.1", virtualisation="kvm", accelerator="tcg",
            before={"load_1m": 0.25, "boost": True, "governor": None},
            after={"load_1m": 1.5, "boost": True, "governor": None},
        ),
        "clock": record.Clock("cold-start", "start", {"first-reply": "stop"}, "a clock", 80, 100.5),
        "series": (series(),),
        "validity": record.Validity("suspect", ("the checkout was dirty",)),
        "tools": {"python": "CPython 3.11"},
        "harness": record.Harness("0.1.0"),
    }  # fmt: skip
    return record.RunRecord(**(values | changes))
