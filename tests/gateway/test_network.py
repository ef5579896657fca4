"""Network rules, tested with packets between sandboxes and to an outside network."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import SandboxError
from harness.gateway.gateway_process import GatewayProcess, running_gateway
from harness.host.run import Run
from tests.gateway.client import Box
from tests.host.processes import eventually

JSON = {"Content-Type": "application/json"}
PATIENCE_S = 60.0
ALONE_S = 3.0
"""How long no gateway runs, at first: an attempt takes up to a second and should fall within."""
LISTEN = (
    "import socket\\n"
    "s = socket.socket()\\n"
    "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\\n"
    's.bind(("", 7000))\\n'
    "s.listen(16)\\n"
    'print("on", flush=True)\\n'
    "while True:\\n"
    "    c, _ = s.accept()\\n"
    '    c.sendall(b"well")\\n'
    "    c.close()\\n"
)
CONNECT = (
    "import socket, sys\\n"
    "try:\\n"
    "    s = socket.create_connection((sys.argv[1], 7000), 1)\\n"
    "    print(s.recv(9).decode())\\n"
    "except OSError as e:\\n"
    '    print("no")\\n'
)

ATTEMPTS = (
    "import os, socket, sys, time\\n"
    'while not os.path.exists("stop"):\\n'
    "    began = time.time()\\n"
    "    try:\\n"
    "        s = socket.create_connection((sys.argv[1], 7000), 1)\\n"
    "        what = s.recv(9).decode()\\n"
    "    except OSError:\\n"
    '        what = "no"\\n'
    "    print(began, what, time.time(), flush=True)\\n"
    "    time.sleep(0.1)\\n"
)
"""Connects repeatedly; prints when each attempt began, its result, and when it ended."""

ADDRESS = (
    "import fcntl, socket, struct\\n"
    'request = struct.pack("256s", b"eth0")\\n'
    "found = fcntl.ioctl(socket.socket(), 0x8915, request)\\n"
    "print(socket.inet_ntoa(found[20:24]))\\n"
)


@pytest.fixture
def own(run: Run, possible: None, tmp_path: Path, accelerator: str) -> Iterator[GatewayProcess]:
    """A gateway with microVMs that a test may kill."""
    with running_gateway(
        run, "--pool", "2", "--only", "base", runtime=tmp_path / "runtime"
    ) as process:
        process.wait_for_pool("base", 2)
        yield process


def address(box: Box) -> str:
    output, code = box.run(f"printf '{ADDRESS}' | python3 -")
    assert code == 0
    return output.strip()


def reaches(box: Box, target: str) -> bool:
    output, _ = box.run(f"printf '{CONNECT}' > c.py; python3 c.py {target}")
    assert output in ("well\n", "no\n")
    return output == "well\n"


def comes_to_reach(box: Box, target: str) -> bool:
    """Within a minute: after a failed ARP request, the kernel does not repeat it at once."""
    deadline = time.monotonic() + PATIENCE_S
    while not (reached := reaches(box, target)) and time.monotonic() < deadline:
        pass
    return reached


def rule(box: Box, **rules: object) -> None:
    assert box.served.request("PUT", f"/sandboxes/{box.id}/network", rules, JSON)[0] == 204


def test_packets_obey_the_latest_rules(own: GatewayProcess) -> None:
    """Both ends must be allowed to send. New rules replace the old ones, and they outlive a gateway
    that is killed and started again."""
    near, far = Box.create(own), Box.create(own)
    with far.start(f"printf '{LISTEN}' > l.py; exec python3 l.py") as stream:
        messages = stream.messages()
        next(messages)
        next(messages)  # it listens now
    here, there = address(near), address(far)
    assert not reaches(near, there)
    rule(near, allowOut=[there])
    rule(far, allowOut=[here])
    assert comes_to_reach(near, there)
    rule(near, allowOut=[], denyOut=["0.0.0.0/0"])
    assert not reaches(near, there)
    rule(near, allowOut=[there])
    assert comes_to_reach(near, there)

    # The rules stay in force while no gateway runs.
    rule(near, denyOut=[there])
    command = f"printf '{ATTEMPTS}' > t.py; python3 t.py {there} > tries; touch stopped"
    with near.start(command) as tries:
        next(tries.messages())
    eventually(lambda: len(_attempts(near)) > 0, 120)
    meanwhile: list[str] = []
    alone_s = ALONE_S
    while not meanwhile:  # on a busy host an attempt may take longer
        own.kill()
        killed = time.time()
        time.sleep(alone_s)
        alone_s *= 2
        begun = time.time()
        own.start()
        meanwhile = [what for at, what, end in _attempts(near) if killed < at and end < begun]
    near.run("touch stop")
    eventually(lambda: near.run("cat stopped")[1] == 0, 120)
    assert {what for _, what, _ in _attempts(near)} == {"no"}
    assert not reaches(near, there)
    rule(near, allowOut=[there])
    assert comes_to_reach(near, there)
    assert own.request("DELETE", f"/sandboxes/{far.id}")[0] == 204
    assert not reaches(near, there)
    # The other sandbox is still listed.
    listed = json.loads(own.request("GET", "/v2/sandboxes")[1])
    assert [sandbox["sandboxID"] for sandbox in listed] == [near.id]


def _attempts(box: Box) -> list[tuple[float, str, float]]:
    """When each attempt began, its result, and when it ended."""
    fields = box.run("cat tries 2> /dev/null")[0].split()
    complete = len(fields) // 3 * 3
    return [(float(fields[i]), fields[i + 1], float(fields[i + 2])) for i in range(0, complete, 3)]


def test_a_gateway_whose_network_does_not_match_the_sandboxes_is_refused(
    run: Run, possible: None, runtime: Path
) -> None:
    """After a crash, a gateway adopts no sandbox whose rules it would not enforce; with a network,
    none that lacks a network interface. They run on until one comes that can."""
    options = ("--substrate", "oci", "--pool", "1", "--only", "base")
    with running_gateway(run, *options, runtime=runtime) as process:
        plain = [*process.argv]
        without = [*plain, "--no-network"]
        for argv, other, hint in (
            (plain, without, "start it without --no-network"),
            (without, plain, "start it with --no-network"),
        ):
            box = Box.create(process)
            process.kill()
            process.argv = other
            with pytest.raises(SandboxError, match=hint):
                process.start()
            process.argv = argv
            process.start()
            assert box.run("echo alive") == ("alive\n", 0)
            assert box.kill() == 204
            process.stop()
            assert f" {runtime}/" not in Path("/proc/self/mounts").read_text(encoding="utf-8")
            if other is without:
                process.argv = other
                process.start()  # nothing runs that it could not take over
