"""Schemathesis with openapi.yaml: no server errors, and responses as described."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from harness.gateway.control_plane.schemas import FILE
from harness.gateway.gateway_process import GatewayProcess, new_key
from harness.gateway.sandboxes.store import Limits
from tests.gateway.client import Box

CALLS = int(os.environ.get("COPPICE_FUZZ_CALLS", "1000"))
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_schema_conformance",
)  # fmt: skip
TO_KILL = 5


def described(directory: Path, known: list[str], snapshot: str) -> Path:
    """The description with ids of existing sandboxes, so that calls reach them."""
    document = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    parts = document["components"]
    parts["parameters"]["id"]["schema"]["enum"] = known[TO_KILL:]
    parts["schemas"]["NewSandbox"]["properties"]["templateID"]["enum"] = ["base", snapshot]
    for name in ("Seconds", "SecondsOrNull"):
        parts["schemas"][name]["minimum"] = 600
    # Sandboxes to kill are not those that the other calls use.
    to_kill = {"name": "id", "in": "path", "required": True, "schema": {"enum": known[:TO_KILL]}}
    by_id = document["paths"]["/sandboxes/{id}"]
    del by_id["parameters"]
    by_id["delete"]["parameters"] = [to_kill]
    by_id["get"]["parameters"] = [{"$ref": "#/components/parameters/id"}]
    path = directory / "openapi.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def response_counts(served: GatewayProcess) -> Counter[str]:
    text = served.request("GET", "/metrics")[1].decode()
    counts: Counter[str] = Counter()
    for route, status, count in re.findall(
        r'coppice_requests_total\{route="(\w+)",status="(\d+)"\} (\d+)', text
    ):
        counts[status] += int(count)
        counts[route] += int(count) if status < "400" else 0
    return counts


REACHED = (
    "create", "create_v2", "info", "list", "list_v2", "kill", "pause", "resume", "connect",
    "connect_v2", "fork", "timeout", "refreshes", "network", "snapshot", "snapshots", "logs",
    "logs_v2", "metrics", "metrics_of_many", "health",
)  # fmt: skip
"""Operations that must also succeed; snapshots are not deleted, since their ids are random."""


def test_no_call_fails_and_each_response_is_as_described(
    shared_nothing: GatewayProcess, tmp_path: Path
) -> None:
    pytest.importorskip("schemathesis")
    key = new_key(shared_nothing.directory, Limits(sandboxes=5000, rate=1e6, burst=10000))
    nothing = dataclasses.replace(shared_nothing, key=key)
    boxes = [Box.create(nothing, timeout=3600).id for _ in range(12)]
    created = nothing.request("POST", f"/sandboxes/{boxes[0]}/snapshots", b"{}")[1]
    schema = described(tmp_path, boxes, yaml.safe_load(created)["snapshotID"])
    before = response_counts(nothing)
    seed, calls = 0, 0
    while calls < CALLS:
        seed += 1
        done = subprocess.run(
            [
                sys.executable, "-m", "schemathesis.cli", "run", str(schema),
                "--url", nothing.address, "--header", f"X-API-KEY:{nothing.key}",
                "--checks", ",".join(CHECKS), "--phases", "coverage,fuzzing", "--mode", "all",
                "--max-examples", "4" if CALLS < 5000 else "200", "--seed", str(seed),
                "--generation-database", "none", "--no-color", "--warnings", "off",
            ],
            cwd=tmp_path, capture_output=True, text=True, encoding="utf-8",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        now = response_counts(nothing) - before
        calls = sum(number for name, number in now.items() if name.isdigit())
    print(f"{calls} calls: {dict(now)}")
    assert not [status for status in now if status >= "500" and status.isdigit()]
    assert now["400"] and now["404"]
    assert not [route for route in REACHED if not now[route]], now
