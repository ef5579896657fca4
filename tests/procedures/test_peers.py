"""What is copied into a guest with a program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.host.process import need
from harness.procedures.peers import libraries_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ldd and libgcc_s are Linux's")


def test_the_library_that_glibc_opens_later_is_among_a_programs_libraries() -> None:
    found = libraries_of(Path(need("iperf3")))
    names = [Path(file).name for file in found]
    assert "libgcc_s.so.1" in names and "libc.so.6" in names
    assert any(name.startswith("ld-linux") for name in names)
    assert len(set(found)) == len(found)
