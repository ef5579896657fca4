"""What sandboxes that are copies of one memory have of their own: the random state of Python."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from harness.gateway.gateway_process import GatewayProcess
from tests.gateway.cells import Interpreter, interpreter, texts
from tests.gateway.client import INTERPRETER, Box

JSON = {"Content-Type": "application/json"}
GENERATORS = """
import random, ssl, tempfile
with tempfile.NamedTemporaryFile() as file:
    print(random.random(), ssl.RAND_bytes(8).hex(), file.name)
"""


def cell(box: Box, code: str) -> list[str]:
    """What a cell prints, in parts."""
    status, data = box.served.request(
        "POST", "/execute", {"code": code}, box.headers(INTERPRETER, **JSON)
    )
    assert status == 200, data
    return texts([json.loads(line) for line in data.splitlines()]).split()


def test_sandboxes_share_no_random_state(served: GatewayProcess) -> None:
    box, other = (Box.create(served, "code-interpreter-v1") for _ in range(2))
    printed = [cell(box, GENERATORS), cell(other, GENERATORS)]
    cell(box, "random.seed(1)")
    status, data = served.request("POST", f"/sandboxes/{box.id}/fork", {"count": 1}, JSON)
    assert status == 201, data
    copied = json.loads(data)[0]["sandbox"]
    fork = Box(served, copied["sandboxID"], copied["envdAccessToken"], copied["trafficAccessToken"])
    printed += [cell(box, GENERATORS), cell(fork, GENERATORS)]
    for values in zip(*printed, strict=True):
        assert len(set(values)) == len(printed), values
    for each in (box, other, fork):
        assert each.kill() == 204


def rename(shell: Interpreter, host: str) -> None:
    """Give the interpreter's UTS namespace another host name, as a copy of a sandbox gets it."""
    pid = str(shell.process.pid)
    subprocess.run(["nsenter", "--uts", "--target", pid, "hostname", host], check=True)


def test_what_a_cell_has_seeded_goes_on_in_the_same_sandbox_only(tmp_path: Path) -> None:
    seeded = "import random, sys\nrandom.seed(1)\nfirst = random.random()\nrandom.seed(1)"
    with interpreter(tmp_path) as shell:
        shell.run(seeded)
        assert texts(shell.run("print(random.random() == first)")) == "True\n"
        shell.run(seeded)
        rename(shell, f"twin-{os.getpid()}")
        assert texts(shell.run("print(random.random() == first)")) == "False\n"
        # Also after a cell has broken what the interpreter seeds.
        shell.run(f"{seeded}\nsys.modules['numpy.random'] = sys.modules['tempfile'] = 1")
        shell.run("random.seed = None")
        rename(shell, f"other-{os.getpid()}")
        assert texts(shell.run("print(random.random() == first)")) == "False\n"
