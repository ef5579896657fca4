from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from harness.errors import NotEnoughMemory
from harness.host import identity
from harness.host.identity import allocate

ALLOCATE_MANY = """
import sys
from pathlib import Path
from harness.host.identity import allocate
sys.stdin.readline()
for _ in range(100):
    one = allocate(Path(sys.argv[1]), "run")
    print(one.address, one.hostname, one.machine_id, one.mac, one.key.hex(), one.lease.name)
"""


def test_the_parts_of_an_identity(tmp_path: Path) -> None:
    one = allocate(tmp_path / "leases", "some-run")
    assert one.address in identity.NETWORK
    assert one.lease.read_text(encoding="utf-8") == "some-run"
    assert identity.NETWORK[int(one.lease.name)] == one.address
    assert one.hostname == f"sandbox-{one.id}"
    assert one.mac_bytes[:2] == b"\x02\xc0" and one.mac_bytes[2:] == one.address.packed
    assert len(one.key) == 16 and one.key != identity.NO_KEY
    assert len(one.machine_id) == 32


def test_four_processes_at_once_get_different_identities(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", ALLOCATE_MANY, str(tmp_path / "leases")]
    processes = [
        subprocess.Popen(
            argv, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )
        for _ in range(4)
    ]
    for process in processes:  # all have started before any may go on
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    lines = [line.split() for one in processes for line in one.communicate()[0].splitlines()]
    assert [one.returncode for one in processes] == [0] * 4
    assert len(lines) == 400
    for column in zip(*lines, strict=True):
        assert len(set(column)) == 400
    assert {path.name for path in (tmp_path / "leases").iterdir()} == {line[5] for line in lines}


def test_a_full_network_is_reported_and_a_released_address_is_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = IPv4Network("10.99.0.0/29")
    monkeypatch.setattr(identity, "NETWORK", network)
    held = [allocate(tmp_path, "run") for _ in range(5)]
    never = {network.network_address, network[1], network.broadcast_address}
    assert {one.address for one in held} == set(network) - never
    with pytest.raises(
        NotEnoughMemory, match=r"all 5 addresses of 10\.99\.0\.0/29 are in use"
    ) as e:
        allocate(tmp_path, "run")
    assert e.value.hint and "coppice clean" in e.value.hint
    held[3].release()
    held[3].release()  # safe to call twice
    again = allocate(tmp_path, "run")
    assert again.address == held[3].address
    assert again.machine_id != held[3].machine_id and again.key != held[3].key


def test_the_leases_of_a_run_are_links_to_one_file(tmp_path: Path) -> None:
    """A file for each would have to be made, which ext4 is slow at when many were deleted."""
    (tmp_path / "run").mkdir()
    leases = tmp_path / "leases"
    held = [allocate(leases, "run") for _ in range(3)]
    assert len({one.lease.stat().st_ino for one in held}) == 1
    assert {one.lease.read_text(encoding="utf-8") for one in held} == {"run"}
    held[0].release()
    assert {path.name for path in leases.iterdir()} == {one.lease.name for one in held[1:]}
    other = allocate(leases, "another run, which has no directory")
    assert other.lease.read_text(encoding="utf-8") == "another run, which has no directory"
    assert len(list(leases.iterdir())) == 3
