"""Sandboxes and an outside network, with packets: a server's name is resolved and the server is
reached as far as the rules allow; after a pause, in a fork, and by one gateway only."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from harness.errors import SandboxError
from harness.gateway.fleets.network import policy
from harness.gateway.gateway_process import GatewayProcess, running_gateway
from harness.host.run import Run
from harness.network.namespace import inside, namespace
from harness.network.resolver import first_reachable
from tests.gateway.client import Box, envelope
from tests.host.processes import eventually

PUBLIC, RESOLVER, PORT = "198.51.100.7", "192.168.53.53", 80
JSON = {"Content-Type": "application/json"}
ROOT = {"Authorization": "Basic " + base64.b64encode(b"root:").decode()}
ALL = {"name", "dns_tcp", "http", "udp", "icmp"}
PROBE = """
import json, os, socket, struct, sys, threading
os.environ["RES_OPTIONS"] = "timeout:1 attempts:1"
PUBLIC, PORT, worked = sys.argv[1], int(sys.argv[2]), []

def name():
    return socket.gethostbyname("site.test") == PUBLIC

def dns_tcp():
    server = open("/etc/resolv.conf").read().split("nameserver ")[1].split()[0]
    question = bytes.fromhex("0007010000010000000000000473697465047465737400") + bytes([0, 1, 0, 1])
    with socket.create_connection((server, 53), 1) as line:
        line.sendall(struct.pack(">H", len(question)) + question)
        return socket.inet_aton(PUBLIC) in line.recv(512)

def http():
    with socket.create_connection(("site.test", PORT), 1) as line:
        line.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        return line.recv(512).endswith(b"well")

def datagram(line, data):
    line.settimeout(1)
    line.sendto(data, (PUBLIC, PORT))
    return line.recv(2048).endswith(data[4:])

def udp():
    return datagram(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), b"12345678well")

def icmp():
    line = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    return datagram(line, struct.pack(">BBHHH", 8, 0, 0xffff - 0x0800 - 7 - 1, 7, 1))

def tried(work):
    try:
        if work():
            worked.append(work.__name__)
    except (OSError, IndexError):
        pass

works = name, dns_tcp, http, udp, icmp
threads = [threading.Thread(target=tried, args=(work,)) for work in works]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps(worked))
"""


@contextlib.contextmanager
def outside(run: Run) -> Iterator[Path]:
    """A network with a web server and a resolver that knows its name."""
    with namespace(run.directory, "outside") as path, contextlib.ExitStack() as stack:
        with inside(path):
            for address in (PUBLIC, RESOLVER):
                subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            web = stack.enter_context(socket.create_server((PUBLIC, PORT)))
            dns = stack.enter_context(socket.create_server((RESOLVER, 53)))
            datagrams = []
            for address, port in ((PUBLIC, PORT), (RESOLVER, 53)):
                datagrams.append(
                    stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                )
                datagrams[-1].bind((address, port))
        ends, ended = socket.socketpair()
        stack.enter_context(ends)
        stack.enter_context(ended)
        thread = threading.Thread(target=_serve, args=(ended, web, dns, *datagrams), daemon=True)
        thread.start()
        try:
            yield path
        finally:
            ends.close()
            thread.join()


def _serve(
    ended: socket.socket, web: socket.socket, dns: socket.socket, echo: socket.socket,
    names: socket.socket,
) -> None:  # fmt: skip
    while True:
        ready, _, _ = select.select([ended, web, dns, echo, names], [], [])
        if ended in ready:
            return
        with contextlib.suppress(OSError):
            if web in ready:
                with web.accept()[0] as line:
                    line.recv(4096)
                    line.sendall(b"HTTP/1.0 200 OK\r\n\r\nwell")
            if dns in ready:
                with dns.accept()[0] as line:
                    answer = _resolve(line.recv(4096)[2:])
                    line.sendall(struct.pack(">H", len(answer)) + answer)
            for server, reply in ((echo, bytes), (names, _resolve)):
                if server in ready:
                    data, sender = server.recvfrom(4096)
                    server.sendto(reply(data), sender)


def _resolve(question: bytes) -> bytes:
    """The answer to a question: an address for site.test, no record for the rest."""
    end = question.index(b"\0", 12) + 5
    found = question[12:].startswith(b"\4site\4test\0\0\1")
    record = struct.pack(">HHHIH", 0xC00C, 1, 1, 0, 4) + socket.inet_aton(PUBLIC) if found else b""
    return (
        question[:2] + struct.pack(">5H", 0x8180, 1, int(found), 0, 0) + question[12:end] + record
    )


def reached(box: Box) -> set[str]:
    process = {"cmd": "/usr/bin/python3", "args": ["-c", PROBE, PUBLIC, str(PORT)]}
    with box.begin(envelope({"process": process, "stdin": False}), **ROOT) as stream:
        output, code = stream.result()
    assert code == 0, output
    return {*json.loads(output)}


def comes_to_reach(box: Box, what: set[str]) -> None:
    """Retried: on a busy host a request may take longer than its limit."""
    last: list[set[str]] = []

    def done() -> bool:
        last.append(reached(box))
        return last[-1] >= what

    eventually(done, 60)
    assert last[-1] == what


def rule(box: Box, **rules: object) -> None:
    assert box.served.request("PUT", f"/sandboxes/{box.id}/network", rules, JSON)[0] == 204


@pytest.fixture(scope="module", params=["qemu", "oci"])
def own(
    request: pytest.FixtureRequest,
    run: Run,
    possible: None,
) -> Iterator[GatewayProcess]:
    """With a runtime directory of its own: other runs would clean up after one that is killed."""
    runtime = Path("/run") / f"coppice-outside-{os.getpid()}"
    runtime.mkdir()
    try:
        with outside(run) as path:
            options = ["--substrate", request.param, "--pool", "1", "--only", "base"]
            options += ["--outside", str(path), "--resolver", RESOLVER]
            with running_gateway(run, *options, runtime=runtime) as process:
                yield process
    finally:
        (runtime / "leases").rmdir()
        runtime.rmdir()  # fails unless it is empty


def test_names_and_servers_are_reached_as_far_as_rules_allow(own: GatewayProcess) -> None:
    box = Box.create(own)
    everything = ALL if "qemu" in own.argv else ALL - {"icmp"}  # needs CAP_NET_RAW
    names = {"name", "dns_tcp"}
    comes_to_reach(box, everything)
    rule(box, allow_internet_access=False)
    assert reached(box) == set()
    if "oci" in own.argv:  # the rules are the same for both, and containers are quicker
        rule(box, denyOut=[RESOLVER])
        comes_to_reach(box, everything - names - {"http"})
    rule(box, denyOut=[f"{PUBLIC}/32"])
    comes_to_reach(box, names)
    rule(box, allow_internet_access=False, allowOut=[RESOLVER, f"{PUBLIC} tcp/{PORT}"])
    comes_to_reach(box, names | {"http"})

    # After a pause, with the same rules; a container's is of its files.
    memory = {} if "qemu" in own.argv else {"memory": False}
    assert own.request("POST", f"/sandboxes/{box.id}/pause", memory, JSON)[0] == 204
    assert own.request("POST", f"/v2/sandboxes/{box.id}/connect", {"timeout": 300}, JSON)[0] == 201
    comes_to_reach(box, names | {"http"})
    rule(box)
    comes_to_reach(box, everything)
    if "oci" in own.argv:  # and after a crash of the gateway, which connects the network anew
        own.kill()
        own.start()
        comes_to_reach(box, everything)
    if "qemu" in own.argv:
        status, data = own.request("POST", f"/sandboxes/{box.id}/fork", {"count": 1}, JSON)
        assert status == 201, data
        copied = json.loads(data)[0]["sandbox"]
        fork = Box(
            own, copied["sandboxID"], copied["envdAccessToken"], copied["trafficAccessToken"]
        )
        comes_to_reach(fork, everything)
        rule(fork, allow_internet_access=False)
        assert reached(fork) == set()
        comes_to_reach(box, everything)

        return

    # The user's own configuration is left alone.
    with box.start("echo nameserver 10.9.9.9 > /etc/resolv.conf", **ROOT) as stream:
        assert stream.result()[1] == 0
    assert own.request("POST", f"/sandboxes/{box.id}/pause", memory, JSON)[0] == 204
    assert own.request("POST", f"/v2/sandboxes/{box.id}/connect", {"timeout": 300}, JSON)[0] == 201
    assert box.run("cat /etc/resolv.conf")[0] == "nameserver 10.9.9.9\n"


@pytest.mark.parametrize(
    ("rules", "admitted"),
    [
        ({}, True),
        ({"denyOut": ["8.8.8.8"]}, True),
        ({"denyOut": ["192.168.0.0/16"]}, False),
        ({"denyOut": ["10.77.0.1 udp/53"]}, False),
        ({"denyOut": [f"{RESOLVER} tcp/80"]}, True),
        ({"denyOut": [RESOLVER], "allowOut": [f"{RESOLVER} tcp/53"]}, True),
        ({"denyOut": ["*"]}, False),
        ({"allow_internet_access": False}, False),
        ({"allow_internet_access": False, "allowOut": [PUBLIC]}, False),
        ({"allow_internet_access": False, "allowOut": [f"{PUBLIC} tcp/53"]}, False),
        ({"allow_internet_access": False, "allowOut": [RESOLVER]}, True),
        ({"allow_internet_access": False, "allowOut": [f"{RESOLVER} udp/53"]}, True),
        ({"allow_internet_access": False, "allowOut": [f"{RESOLVER} tcp/80"]}, False),
    ],
)
def test_the_resolver_is_admitted_as_the_rules_say(
    rules: Mapping[str, Any], admitted: bool
) -> None:
    dns = [str(destination) for destination in policy(rules, IPv4Address(RESOLVER)).dns]
    assert dns == (["10.77.0.1"] if admitted else [])
    assert policy(rules).dns == ()


def test_the_resolver_is_that_of_the_outside_s_owner(tmp_path: Path) -> None:
    for text, address in (
        ("# none\nsearch x\nnameserver 127.0.0.53\nnameserver ::1\n", None),
        ("nameserver 127.0.0.1\nnameserver 10.1.2.3\nnameserver 10.1.2.4\n", "10.1.2.3"),
        ("nameserver 0.0.0.0\nnameserver\n  nameserver 9.9.9.9 # one\n", "9.9.9.9"),
    ):
        (tmp_path / "resolv.conf").write_text(text, encoding="utf-8")
        assert first_reachable([tmp_path / "none", tmp_path / "resolv.conf"]) == (
            address and IPv4Address(address)
        )


@pytest.mark.parametrize("own", ["oci"], indirect=True)
def test_a_second_gateway_on_the_same_network_is_refused(own: GatewayProcess, run: Run) -> None:
    used = own.argv[own.argv.index("--outside") + 1]
    options = ("--substrate", "oci", "--pool", "1", "--only", "base", "--outside")
    with (
        pytest.raises(SandboxError, match="another gateway uses the network namespace"),
        running_gateway(run, *options, used),
    ):
        pass
    with (
        pytest.raises(SandboxError, match="there is no outside network"),
        running_gateway(run, *options, "/nothing"),
    ):
        pass
