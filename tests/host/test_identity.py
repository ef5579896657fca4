"""Addresses that no two sandboxes of a host share, whoever asks for them."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from harness.errors import NotEnoughMemory
from harness.sandbox import identity

SOME = """
import sys
from pathlib import Path
from harness.sandbox.identity import allocate
for _ in range(100):
    print(allocate(Path(sys.argv[1]), "run").address)
"""


def test_processes_that_ask_at_once_get_different_ones(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SOME, str(tmp_path)]
    asking = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    given = [line for one in asking for line in one.communicate(timeout=60)[0].split()]
    assert len(given) == len(set(given)) == 400


def test_used_up_and_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "NETWORK", IPv4Network("10.77.0.0/29"))
    taken = [identity.allocate(tmp_path, "run") for _ in range(5)]
    assert {str(one.address) for one in taken} == {f"10.77.0.{n}" for n in range(2, 7)}
    with pytest.raises(NotEnoughMemory, match="all 5 addresses"):
        identity.allocate(tmp_path, "run")
    taken[2].release()
    taken[2].release()
    assert identity.allocate(tmp_path, "run").address == taken[2].address


def test_the_card_of_a_sandbox_is_its_own(tmp_path: Path) -> None:
    one, other = (identity.allocate(tmp_path, "run") for _ in range(2))
    assert one.mac != other.mac and one.key != other.key and one.machine_id != other.machine_id
    assert one.mac_bytes[0] & 0b11 == 0b10, "locally administered, one card"
