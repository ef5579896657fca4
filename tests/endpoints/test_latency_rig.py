"""`coppice run e2b-latency --endpoint` needs nothing of this host, and records what it knows.

What foreign services do to it is in test_foreign_services.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.measure.record import RunRecord, find, load
from tests.host.processes import coppice
from tests.stand_ins.server import standing_in

LIMITS = ("--most-sandboxes", "4", "--most-per-second", "200", "--n", "1", "--template", "base")


def own(tmp_path: Path) -> Mapping[str, str]:
    """An environment without programs, for the command in this directory."""
    return {
        "COPPICE_STATE": str(tmp_path / "state"),
        "COPPICE_FAILURES": str(tmp_path / "failures"),
        "PATH": "/nowhere",
    }


def record_in(results: Path) -> RunRecord:
    (path,) = find(results)
    return load(path)


def test_a_service_is_measured_without_a_program_of_this_host(tmp_path: Path) -> None:
    with standing_in() as service:
        arguments = ("--endpoint", service.address, *LIMITS, "--results", str(tmp_path / "results"))
        done = coppice("run", "e2b-latency", *arguments, **own(tmp_path), E2B_API_KEY=service.key)
        assert done.returncode == 0, done.stdout + done.stderr
        assert service.alive == [] and len(service.service.made) == 9
    record = record_in(tmp_path / "results")
    assert {one.dimensions["of"] for one in record.series if one.metric == "round-trip"} == {
        "tcp-connect", "request",
    }  # fmt: skip
    programs = {one.dimensions["program"] for one in record.series if "program" in one.dimensions}
    assert programs == {"sh", "ls", "python3", "node", "uploaded"}
    assert record.endpoint is not None
    assert record.endpoint.answered["route of creations"] == "/v2/sandboxes"
    assert record.endpoint.told == {"template": "base"}
    assert record.endpoint.limits == {"most sandboxes at once": 4, "most creations a second": 200.0}
    assert record.command.task.startswith("mise run bench:e2b-latency -- --endpoint http://")
