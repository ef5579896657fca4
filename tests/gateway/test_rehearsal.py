"""A rehearsal of a zygote, and a sandbox that has ended: no trace of them is in a new sandbox."""

from __future__ import annotations

from harness.gateway.fleets import rehearsal
from harness.gateway.gateway_process import GatewayProcess
from tests.gateway.client import Box

POOL = 3
"""Of the gateway that the tests share."""


def test_a_rehearsal_leaves_no_files_and_no_processes(served: GatewayProcess) -> None:
    box = Box.create(served)
    files, _ = box.run(f"ls -A /tmp /var/tmp; ls -d {rehearsal.UPLOADED} 2> /dev/null")
    assert files.split() == ["/tmp:", "/var/tmp:"]
    running, _ = box.run("cat /proc/[0-9]*/comm")
    assert not {"sh", "python3", "sort", "sleep"} & set(running.split()), running
    assert box.kill() == 204


def test_a_new_sandbox_has_nothing_of_one_that_has_ended(served: GatewayProcess) -> None:
    """The file of its disk is used again."""
    first = Box.create(served)
    assert first.run("echo secret > /home/user/mine; sync; cat /home/user/mine")[0] == "secret\n"
    assert first.kill() == 204
    for _ in range(POOL + 1):
        box = Box.create(served)
        assert box.run("cat /home/user/mine")[1] == 1
        assert box.kill() == 204
