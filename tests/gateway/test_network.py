"""Network rules as packets meet them: from one sandbox to another, before and after a PUT."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.gateway.gateway_process import FILE, Running, gateway
from harness.gateway.sandboxes.store import opened
from harness.host.run import Run
from harness.network.namespace import inside, namespace
from tests.gateway.client import Box
from tests.host.processes import eventually

PUBLIC = "198.51.100.7"
JSON = {"Content-Type": "application/json"}
PATIENCE_S = 60.0
ALONE_S = 3.0
"""How long there is no gateway, at first: at least one try, of a second, should fall into it."""
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

TRIES = (
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
"""Tries to connect, again and again: when each began, what came of it, when it ended."""

ADDRESS = (
    "import fcntl, socket, struct\\n"
    'card = struct.pack("256s", b"eth0")\\n'
    "found = fcntl.ioctl(socket.socket(), 0x8915, card)\\n"
    "print(socket.inet_ntoa(found[20:24]))\\n"
)


@pytest.fixture
def own(run: Run, possible: None, tmp_path: Path) -> Iterator[Running]:
    """A gateway over microVMs of its own, which may be killed."""
    with gateway(run, "--pool", "2", "--only", "base", runtime=tmp_path / "runtime") as one:
        one.wait_for_pool("base", 2)
        yield one


def address(box: Box) -> str:
    said, code = box.run(f"printf '{ADDRESS}' | python3 -")
    assert code == 0
    return said.strip()


def reaches(box: Box, target: str) -> bool:
    said, _ = box.run(f"printf '{CONNECT}' > c.py; python3 c.py {target}")
    assert said in ("well\n", "no\n")
    return said == "well\n"


def comes_to_reach(box: Box, target: str) -> bool:
    """In the end: who asked in vain for a card does not ask again at once."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := reaches(box, target)) and time.monotonic() < deadline:
        pass
    return found


def rule(box: Box, **rules: object) -> None:
    assert box.served.ask("PUT", f"/sandboxes/{box.id}/network", rules, JSON)[0] == 204


def test_a_packet_obeys_the_rules_that_were_put_last(own: Running) -> None:
    """Both ends must be allowed to send; what is denied is denied again after the next rules, and
    by a gateway that was killed and started anew."""
    near, far = Box.create(own), Box.create(own)
    with far.start(f"printf '{LISTEN}' > l.py; exec python3 l.py") as stream:
        messages = stream.messages()
        next(messages)
        next(messages)  # it listens
    here, there = address(near), address(far)
    assert not reaches(near, there)
    rule(near, allowOut=[there])
    rule(far, allowOut=[here])
    assert comes_to_reach(near, there)
    rule(near, allowOut=[], denyOut=["0.0.0.0/0"])
    assert not reaches(near, there)
    rule(near, allowOut=[there])
    assert comes_to_reach(near, there)

    # With nobody there to enforce them the rules stand: what is denied stays denied meanwhile.
    rule(near, denyOut=[there])
    command = f"printf '{TRIES}' > t.py; python3 t.py {there} > tries; touch stopped"
    with near.start(command) as tries:
        next(tries.messages())
    eventually(lambda: len(_tries(near)) > 0, 120)
    meanwhile: list[str] = []
    alone_s = ALONE_S
    while not meanwhile:  # a try that a busy host draws out is not wholly within
        own.kill()
        killed = time.time()
        time.sleep(alone_s)
        alone_s *= 2
        begun = time.time()
        own.begin()
        meanwhile = [what for at, what, end in _tries(near) if killed < at and end < begun]
    near.run("touch stop")
    eventually(lambda: near.run("cat stopped")[1] == 0, 120)
    assert {what for _, what, _ in _tries(near)} == {"no"}
    assert not reaches(near, there)
    rule(near, allowOut=[there])
    assert comes_to_reach(near, there)
    assert own.ask("DELETE", f"/sandboxes/{far.id}")[0] == 204
    assert not reaches(near, there)
    # What one who is allowed much may do is kept too.
    listed = json.loads(own.ask("GET", "/v2/sandboxes")[1])
    assert [one["sandboxID"] for one in listed] == [near.id]


def _tries(box: Box) -> list[tuple[float, str, float]]:
    """When each try to connect began, what came of it, and when it ended."""
    words = box.run("cat tries")[0].split()
    whole = len(words) // 3 * 3
    return [(float(words[i]), words[i + 1], float(words[i + 2])) for i in range(0, whole, 3)]


@contextlib.contextmanager
def outside(run: Run) -> Iterator[Path]:
    """A network with a server at a public address."""
    with namespace(run.directory, "outside") as path, contextlib.ExitStack() as stack:
        with inside(path):
            for words in (f"addr add {PUBLIC}/32 dev lo", "link set lo up"):
                subprocess.run(["ip", *words.split()], check=True)
            listener = stack.enter_context(socket.create_server(("", 7000)))
        thread = threading.Thread(target=_answer, args=(listener,), daemon=True)
        thread.start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _answer(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            with listener.accept()[0] as line:
                line.sendall(b"well")


def test_the_outside_is_reached_unless_the_rules_say_otherwise(run: Run, possible: None) -> None:
    """E2B's default is that it is."""
    with outside(run) as path:
        options = ("--substrate", "oci", "--pool", "2", "--only", "base", "--outside", str(path))
        with gateway(run, *options) as one:
            box = Box.create(one)
            assert comes_to_reach(box, PUBLIC)
            rule(box, allow_internet_access=False)
            assert not reaches(box, PUBLIC)
            rule(box, allow_internet_access=False, allowOut=[f"{PUBLIC} tcp/7000"])
            assert comes_to_reach(box, PUBLIC)
            rule(box, denyOut=[f"{PUBLIC}/32"])
            assert not reaches(box, PUBLIC)
            rule(box)
            assert comes_to_reach(box, PUBLIC)
            shut = Box.create(one, allow_internet_access=False)
            assert not reaches(shut, PUBLIC)


def test_cards_are_given_or_not_and_who_has_it_otherwise_ends(run: Run, possible: None) -> None:
    """A gateway that was killed adopts none whose rules it would not enforce, nor any without."""
    with gateway(run, "--substrate", "oci", "--pool", "1", "--only", "base") as one:
        plain = [*one.words]
        with opened(one.directory / FILE) as store:
            directory = run.directory.parent / (store.fact("run") or "none")
        for words in ([*plain, "--no-network"], plain):
            box = Box.create(one)
            one.kill()
            one.words = words
            one.begin()
            assert one.ask("GET", f"/sandboxes/{box.id}")[0] == 404
            assert one.ask("GET", "/v2/sandboxes") == (200, b"[]")
        assert directory.is_dir()
        one.end()
        assert not directory.exists()
        assert f" {directory}/" not in Path("/proc/self/mounts").read_text()
