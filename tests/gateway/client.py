"""Plain HTTP to a gateway, for requests that the SDK would not send."""

from __future__ import annotations

import base64
import http.client
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.gateway.gateway_process import GatewayProcess

ENVD, INTERPRETER = 49983, 49999


@dataclass
class Box:
    """A sandbox with its tokens."""

    served: GatewayProcess
    id: str
    token: str
    traffic: str

    @classmethod
    def create(cls, served: GatewayProcess, template: str = "base", **body: Any) -> Box:
        request = {"templateID": template, "timeout": 300, **body}
        status, data = served.request(
            "POST", "/v2/sandboxes", request, {"Content-Type": "application/json"}
        )
        assert status == 201, data
        created = json.loads(data)
        return cls(
            served, created["sandboxID"], created["envdAccessToken"], created["trafficAccessToken"]
        )

    def headers(self, port: int = ENVD, /, **more: str) -> dict[str, str]:
        return {
            "E2b-Sandbox-Id": self.id,
            "E2b-Sandbox-Port": str(port),
            "X-Access-Token": self.token,
            **more,
        }

    def state(self) -> str:
        """running or paused."""
        state: str = json.loads(self.served.request("GET", f"/sandboxes/{self.id}")[1])["state"]
        return state

    def end_in(self, seconds: int) -> None:
        """Set its time limit; one that resumes by itself gets the same limit again."""
        response = self.served.request(
            "POST",
            f"/sandboxes/{self.id}/timeout",
            {"timeout": seconds},
            {"Content-Type": "application/json"},
        )
        assert response[0] == 204, response

    def kill(self) -> int:
        return self.served.request("DELETE", f"/sandboxes/{self.id}")[0]

    def rpc(self, method: str, body: Any, user: str = "") -> tuple[int, Any]:
        """A unary call; its status and response."""
        headers = {"Content-Type": "application/json"}
        if user:
            headers["Authorization"] = f"Basic {base64.b64encode(user.encode() + b':').decode()}"
        status, data = self.served.request("POST", f"/{method}", body, self.headers(**headers))
        return status, json.loads(data or b"{}")

    def begin(self, data: bytes, method: str = "process.Process/Start", **more: str) -> Stream:
        """Send bytes as the request of a stream; the response is read later."""
        connection = http.client.HTTPConnection("127.0.0.1", self.served.port, timeout=120)
        headers = self.headers(**{"Content-Type": "application/connect+json", **more})
        try:
            connection.request("POST", f"/{method}", data, headers)
            return Stream(connection, connection.getresponse())
        except BaseException:
            connection.close()
            raise

    def start(self, command: str, **more: str) -> Stream:
        process = {"cmd": "/bin/bash", "args": ["-l", "-c", command]}
        return self.begin(envelope({"process": process, "stdin": False}), **more)

    def run(self, command: str) -> tuple[str, int]:
        """A command's output and exit code."""
        with self.start(command) as stream:
            return stream.result()


@dataclass
class Stream:
    """The response of a server stream."""

    connection: http.client.HTTPConnection
    response: http.client.HTTPResponse

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()
        self.connection.close()

    def messages(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Flag and body of each envelope."""
        while head := self.response.read(5):
            flag, length = struct.unpack(">BI", head)
            yield flag, json.loads(self.response.read(length))

    def error(self) -> Mapping[str, Any]:
        """The error that the stream ends with."""
        *_, (flag, last) = self.messages()
        assert flag == 2
        error: Mapping[str, Any] = last["error"]
        return error

    def result(self) -> tuple[str, int]:
        """The output and exit code."""
        output, code = b"", None
        for flag, body in self.messages():
            event = body.get("event", {})
            for data in event.get("data", {}).values():
                output += base64.b64decode(data)
            if "end" in event:
                code = event["end"].get("exitCode", 0)
            if flag == 2:
                assert body == {}, body
        assert code is not None
        return output.decode(), code


def envelope(body: Any, flag: int = 0) -> bytes:
    data = json.dumps(body).encode()
    return struct.pack(">BI", flag, len(data)) + data
