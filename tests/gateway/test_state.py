from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from harness.gateway.fleets.saved_vm import copy_sparse

MIB = 1 << 20


@pytest.mark.parametrize("place", ["beside it", "/dev/shm", "/run"])
def test_a_copy_is_equal_and_sparse_from_any_file_system(place: str, tmp_path: Path) -> None:
    """/run is usually a tmpfs, and saved sandboxes are on a disk."""
    if not os.access(tmp_path if place == "beside it" else place, os.W_OK):
        pytest.skip(f"{place} is not writable")
    directory = tmp_path if place == "beside it" else Path(place)
    with tempfile.NamedTemporaryFile(dir=directory) as source:
        source.truncate(64 * MIB)
        for at in (0, 17 * MIB + 4096, 64 * MIB - 5000):
            source.seek(at)
            source.write(os.urandom(5000))
        source.flush()
        target = tmp_path / "copy"
        copy_sparse(Path(source.name), target)
        assert target.read_bytes() == Path(source.name).read_bytes()
    assert target.stat().st_blocks * 512 < MIB
