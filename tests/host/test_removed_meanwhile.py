"""What another process removes while leftovers are being listed is not missed."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from harness.host.cgroups import Cgroups
from harness.host.file_system import entries


def test_entries_of_what_is_gone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert entries(tmp_path) == [tmp_path / "file"]
    assert entries(tmp_path / "missing") == entries(tmp_path / "file") == []


def test_groups_may_go_while_they_are_removed(tmp_path: Path) -> None:
    """The hierarchy is a fake: directories of a file system, which rmdir removes as well."""
    for _ in range(5):
        groups = [tmp_path / "runs" / "run" / f"box{number}" for number in range(200)]
        for group in groups:
            (group / "inner").mkdir(parents=True)
        begun = threading.Event()

        def remove_too(groups: list[Path] = groups, begun: threading.Event = begun) -> None:
            begun.set()
            for group in groups:
                for directory in (group / "inner", group):
                    with contextlib.suppress(OSError):
                        directory.rmdir()

        other = threading.Thread(target=remove_too)
        other.start()
        begun.wait()
        Cgroups(1, {"memory": tmp_path}).remove("runs/run")
        other.join()
        assert not (tmp_path / "runs").exists()
