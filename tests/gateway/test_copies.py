"""What becomes of a sandbox's memory and disk: paused and resumed, a snapshot taken, forked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from harness.gateway.gateway_process import GatewayProcess
from tests.gateway.client import Box

JSON = {"Content-Type": "application/json"}
BEGIN = "echo kept > kept; (sleep 3000 & echo $!) > pid 2>&1; cat pid"
"""On its disk a file, in its memory a process."""


def post(box: Box, what: str, body: object) -> Any:
    status, data = box.served.request("POST", f"/sandboxes/{box.id}/{what}", body, JSON)
    assert status == 201, data
    return json.loads(data)


def said(box: Box, command: str) -> str:
    output, code = box.run(command)
    assert code == 0, output
    return output.strip()


@contextmanager
def ended(*boxes: Box) -> Iterator[None]:
    with ExitStack() as stack:
        for box in boxes:
            stack.callback(box.kill)
        yield


@pytest.fixture
def begun(served: GatewayProcess) -> Iterator[Box]:
    box = Box.create(served)
    with ended(box):
        said(box, BEGIN)
        yield box


def assert_goes_on(box: Box) -> None:
    assert said(box, "cat kept") == "kept"
    assert said(box, "cat /proc/$(cat pid)/comm") == "sleep", "the process is that of before"


def test_a_sandbox_resumes_as_it_was_paused(begun: Box) -> None:
    for _ in range(2):  # the second save is of one that was itself restored
        assert begun.served.request("POST", f"/sandboxes/{begun.id}/pause", {}, JSON)[0] == 204
        assert begun.state() == "paused"
        status, _ = begun.served.request("POST", f"/v2/sandboxes/{begun.id}/connect", {}, JSON)
        assert status == 201 and begun.state() == "running"
        assert_goes_on(begun)


def test_sandboxes_of_a_snapshot_are_independent_of_it(begun: Box) -> None:
    taken = post(begun, "snapshots", {})["snapshotID"]
    assert_goes_on(begun)
    said(begun, "echo changed > kept")
    one, other = (Box.create(begun.served, taken) for _ in range(2))
    with ended(one, other):
        for each in (one, other):
            assert_goes_on(each)
        said(one, "echo mine > kept")
        assert [said(each, "cat kept") for each in (begun, one, other)] == [
            "changed",
            "mine",
            "kept",
        ]
        assert len({said(each, "cat /etc/hostname") for each in (begun, one, other)}) == 3
    assert begun.served.request("DELETE", f"/templates/{taken}")[0] == 204


def test_forks_are_independent_of_each_other(begun: Box) -> None:
    made = [item["sandbox"] for item in post(begun, "fork", {"count": 2, "timeout": 300})]
    forks = [
        Box(begun.served, it["sandboxID"], it["envdAccessToken"], it["trafficAccessToken"])
        for it in made
    ]
    assert len(forks) == 2
    with ended(*forks):
        for each in (begun, *forks):
            assert_goes_on(each)
        said(forks[0], "kill $(cat pid); echo mine > kept")
        assert said(forks[1], "cat kept") == "kept"
        assert_goes_on(begun)
        assert len({said(each, "cat /etc/machine-id") for each in (begun, *forks)}) == 3
