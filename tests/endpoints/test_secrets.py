"""A key is in no traceback, whatever options pytest has, and in no file that explains a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness.endpoints.secret import Secret
from tests.host.processes import ROOT
from tests.stand_ins.server import standing_in


def test_a_secret_is_shown_by_no_representation() -> None:
    secret = Secret("e2b_key") + "\r\n"
    assert "e2b_key" not in repr([secret, {"a": secret}]) and f"{secret}" == "e2b_key\r\n"


def test_a_traceback_with_all_locals_holds_no_key(tmp_path: Path) -> None:
    with standing_in("half-way-body") as service:
        given = {
            "endpoint": service.address, "template": "base", "n": "1",
            "most-sandboxes": "2", "most-per-second": "50",
        }  # fmt: skip
        argv = [
            sys.executable,
            "-m",
            "pytest",
            "rigs/test_e2b_latency.py",
            "-p",
            "no:cacheprovider",
        ]
        argv += ["--tb=long", "--showlocals", f"--coppice-results={tmp_path / 'results'}"]
        argv += [f"--coppice-set={name}={value}" for name, value in given.items()]
        own = {"COPPICE_STATE": str(tmp_path / "state"), "COPPICE_FAILURES": str(tmp_path / "f")}
        done = subprocess.run(
            argv, cwd=ROOT, env={**os.environ, **own, "E2B_API_KEY": service.key},
            capture_output=True, text=True, encoding="utf-8",
        )  # fmt: skip
    assert done.returncode == 76, done.stdout
    assert "head" in done.stdout and "in the middle of its answer" in done.stdout
    assert service.key not in done.stdout + done.stderr
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if service.key.encode() in path.read_bytes()]
