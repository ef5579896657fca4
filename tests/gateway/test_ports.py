"""Servers that run in a sandbox, as callers from outside reach them."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import threading

import psutil
import pytest

from harness.gateway.gateway_process import Running
from tests.gateway.client import Box
from tests.host.processes import eventually

SERVER = """
import hashlib, http.server, socketserver, sys, threading

GO_ON = threading.Semaphore(0)
WRITTEN = [0]

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/large":
            self.send_response(200)
            self.send_header("Content-Length", str(96 << 20))
            self.end_headers()
            for _ in range(96):
                self.wfile.write(b"x" * (1 << 20))
                WRITTEN[0] += 1
            return
        if self.path == "/written":
            self.answer(b"%d" % WRITTEN[0])
            return
        if self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"only this")
            self.close_connection = True
            return
        if self.path == "/noise":
            self.wfile.write(b"this is no HTTP\\r\\n\\r\\n")
            self.close_connection = True
            return
        if self.path == "/go-on":
            GO_ON.release()
        if self.path == "/slow":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number in range(3):
                self.wfile.write(b"1\\r\\n%d\\r\\n" % number)
                self.wfile.flush()
                GO_ON.acquire()
            self.wfile.write(b"0\\r\\n\\r\\n")
            return
        if self.headers.get("Upgrade"):
            self.connection.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\n"
                                    b"Connection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n")
            while data := self.connection.recv(65536):
                self.connection.sendall(data.swapcase())
            self.close_connection = True
            return
        names = ",".join(sorted(name.lower() for name in self.headers))
        self.answer(f"{self.path} {names}".encode())
    def do_POST(self):
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        while left:
            data = self.rfile.read(min(left, 1 << 20))
            digest.update(data)
            left -= len(data)
        self.answer(digest.hexdigest().encode())
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Its-Own", "kept")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
    do_HEAD = do_GET
    def log_message(self, *_): pass

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
PORT = 8123


@pytest.fixture(scope="module")
def server(box: Box) -> Box:
    start_server(box)
    return box


def start_server(box: Box) -> None:
    kind = {"Content-Type": "application/octet-stream"}
    assert (
        box.served.ask("POST", "/files?path=s.py", SERVER.encode(), box.headers(**kind))[0] == 200
    )
    with box.start(f"exec python3 s.py {PORT}") as stream:
        next(stream.messages())
    eventually(lambda: ask(box, "GET", "/")[0] != 502, 120)


def ask(
    box: Box, method: str, path: str, body: bytes | None = None, token: str = ""
) -> tuple[int, bytes]:
    named = {"Host": f"{PORT}-{box.id}.sandboxes.test", "E2b-Traffic-Access-Token": token}
    return box.served.ask(method, path, body, named)


def line_to(box: Box) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", box.served.port, timeout=120)


def test_a_request_reaches_the_server_and_its_answer_comes_back(server: Box) -> None:
    line = line_to(server)
    host = {"Host": f"{PORT}-{server.id}.sandboxes.test", "X-Mine": "1", "X-API-KEY": "secret"}
    line.request("GET", "/some%20where?a=b&c=%2F", headers=host)
    answer = line.getresponse()
    path, names = answer.read().decode().split(" ")
    assert path == "/some%20where?a=b&c=%2F" and answer.headers["X-Its-Own"] == "kept"
    assert "x-mine" in names.split(",") and "host" in names.split(",")
    assert "x-api-key" not in names and "e2b" not in names
    line.request("HEAD", "/", headers=host)  # on the same connection
    answer = line.getresponse()
    assert answer.status == 200 and answer.read() == b"" and int(answer.headers["content-length"])
    line.close()


def test_where_nobody_listens_that_is_said(server: Box) -> None:
    host = {"Host": f"{PORT + 1}-{server.id}.sandboxes.test"}
    status, data = server.served.ask("GET", "/", None, host)
    assert (status, json.loads(data)["port"]) == (502, PORT + 1)
    assert "port is not open" in json.loads(data)["message"]


@pytest.mark.parametrize("number", ["0", "99999", "x"])
def test_a_port_that_is_none_is_refused(server: Box, number: str) -> None:
    headers = {"E2b-Sandbox-Id": server.id, "E2b-Sandbox-Port": number}
    assert server.served.ask("GET", "/", None, headers)[0] == 502


def resident(served: Running) -> int:
    assert served.process
    found: int = psutil.Process(served.process.pid).memory_info().rss
    return found


def test_much_passes_each_way_in_little_memory(server: Box) -> None:
    before = resident(server.served)
    data = os.urandom(8 << 20)
    status, said = ask(server, "POST", "/", data)
    assert (status, said.decode()) == (200, hashlib.sha256(data).hexdigest())
    line = line_to(server)
    line.request("GET", "/large", headers={"Host": f"{PORT}-{server.id}.sandboxes.test"})
    answer = line.getresponse()
    written: list[bytes] = []

    def stalled() -> bool:
        """It does not run ahead of who reads."""
        written.append(ask(server, "GET", "/written")[1])
        return len(written) > 2 and written[-1] == written[-2]

    eventually(stalled, 120)
    assert int(written[-1]) < 96
    assert resident(server.served) - before < 48 << 20
    got = 0
    while piece := answer.read(1 << 20):
        got += len(piece)
    line.close()
    assert got == 96 << 20
    assert resident(server.served) - before < 48 << 20


def test_pieces_come_as_the_server_gives_them(server: Box) -> None:
    line = line_to(server)
    line.request("GET", "/slow", headers={"Host": f"{PORT}-{server.id}.sandboxes.test"})
    answer = line.getresponse()
    for number in range(3):  # each is there while the next is not written yet
        assert answer.read(1) == b"%d" % number
        assert ask(server, "GET", "/go-on")[0] == 200
    assert answer.read() == b""
    line.close()


def test_an_answer_that_is_none_or_cut_short_is_not_taken_for_one(server: Box) -> None:
    assert ask(server, "GET", "/noise")[0] == 502
    line = line_to(server)
    line.request("GET", "/short", headers={"Host": f"{PORT}-{server.id}.sandboxes.test"})
    answer = line.getresponse()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    line.close()
    assert ask(server, "GET", "/")[0] == 200


def test_a_websocket_is_carried(server: Box) -> None:
    head = (
        f"GET /socket HTTP/1.1\r\nHost: {PORT}-{server.id}.sandboxes.test\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.served.port), timeout=120) as line:
        line.sendall(head.encode())
        with line.makefile("rb") as answer:
            assert answer.readline().startswith(b"HTTP/1.1 101 ")
            while answer.readline() != b"\r\n":
                pass
            line.sendall(b"Hello")
            assert answer.read(5) == b"hELLO"
            flood = b"ab" * (2 << 20)
            sender = threading.Thread(target=line.sendall, args=(flood,))
            sender.start()
            assert answer.read(len(flood)) == flood.swapcase()
            sender.join()
    wrong = head.replace(f"{PORT}-", f"{PORT + 1}-").replace("/socket", "/")
    with socket.create_connection(("127.0.0.1", server.served.port), timeout=120) as line:
        line.sendall(wrong.encode())
        assert line.recv(4096).startswith(b"HTTP/1.1 502 ")


def test_who_leaves_early_leaves_no_connection_behind(server: Box) -> None:
    for _ in range(150):  # more than there may be at once
        with socket.create_connection(("127.0.0.1", server.served.port)) as line:
            host = f"Host: {PORT}-{server.id}.sandboxes.test"
            line.sendall(f"GET /large HTTP/1.1\r\n{host}\r\n\r\n".encode())
            line.recv(1000)
    eventually(lambda: ask(server, "GET", "/")[0] == 200, 120)


def test_ports_may_be_closed_to_who_has_no_token(served: Running) -> None:
    box = Box.create(served, network={"allowPublicTraffic": False})
    assert ask(box, "GET", "/")[0] == 403
    assert ask(box, "GET", "/", token=box.token)[0] == 403
    assert ask(box, "GET", "/", token=box.traffic)[0] == 502
    kind = {"Content-Type": "application/json"}
    assert served.ask("PUT", f"/sandboxes/{box.id}/network", {"denyOut": []}, kind)[0] == 204
    assert ask(box, "GET", "/")[0] == 403
    assert box.kill() == 204
