"""A stand-in that is started by hand."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request

from tests.host.processes import ROOT

START = (sys.executable, "-m", "tests.stand_ins")


def test_it_prints_its_address_and_serves_until_it_is_stopped() -> None:
    argv = (*START, "--behaviour", "cubesandbox,quota", "--set", "boot_s=0,0", "--port", "0")
    with subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        try:
            assert process.stdout
            address = process.stdout.readline().split()[0]
            key = process.stdout.readline().rpartition("E2B_API_KEY=")[2].strip()
            with urllib.request.urlopen(f"{address}/health", timeout=30) as response:
                assert json.load(response) == {"status": "ok", "sandboxes": 0}
            asked = urllib.request.Request(
                f"{address}/sandboxes", b'{"templateID": "base"}', {"X-API-KEY": key}
            )
            with urllib.request.urlopen(asked, timeout=30) as response:
                assert response.status == 201
        finally:
            process.terminate()
        assert "made 1, deleted 0, left 1" in process.stdout.read()
    assert process.returncode == 0


def test_a_behaviour_that_there_is_not_is_refused() -> None:
    done = subprocess.run(
        (*START, "--behaviour", "kind"), cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 2
    assert "no behaviour is called 'kind'" in done.stderr
