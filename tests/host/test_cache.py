"""Entries of the cache: built once, checked at each use, and built again when they are damaged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import CoppiceError, DiskFull, ImageError
from harness.guest import rootfs, shared_agent
from harness.host import cache as entries
from harness.host import ksm
from harness.host.cache import CHECKED, SEAL, content_digest, entry, is_intact
from harness.host.locks import HALF_BUILT
from harness.host.process import run


class Builder:
    """Fills an entry with several kinds of file, and counts how often it does."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.count = 0

    def __call__(self, directory: Path) -> None:
        self.count += 1
        (directory / "root/bin").mkdir(parents=True)
        (directory / "root/bin/program").write_bytes(b"program" * 1000)
        (directory / "root/bin/link").symlink_to("program")
        with (directory / "disk").open("wb") as disk:
            disk.truncate(64 << 20)
            disk.seek(40 << 20)
            disk.write(b"data")

    def use(self) -> Path:
        return entry(self.target, self)


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    made = Builder(tmp_path / "cache" / "images" / "name")
    made.use()
    return made


def flip(path: Path, at: int = 3) -> None:
    """Change one bit, and set the times back as if nothing had happened."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_intact_entry_is_built_once_and_read_once(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "content_digest", None)
    assert builder.use() == builder.target
    assert builder.count == 1


def _relink(at: Path) -> None:
    (at / "root/bin/link").unlink()
    (at / "root/bin/link").symlink_to("x")


def _empty(at: Path) -> None:
    shutil.rmtree(at)
    at.mkdir()


def _replace_by_file(at: Path) -> None:
    shutil.rmtree(at)
    at.write_text("kvl", encoding="utf-8")


def _replace_by_link(at: Path) -> None:
    shutil.rmtree(at)
    at.symlink_to("nothing")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit of a program": lambda at: flip(at / "root/bin/program"),
    "a bit of a disk": lambda at: flip(at / "disk", (40 << 20) + 1),
    "a bit in a hole": lambda at: flip(at / "disk", 7),
    "a shorter file": lambda at: os.truncate(at / "disk", (64 << 20) - 1),
    "a missing file": lambda at: (at / "root/bin/program").unlink(),
    "another file": lambda at: (at / "root/more").touch(),
    "another mode": lambda at: (at / "root/bin/program").chmod(0o777),
    "another link": _relink,
    "a damaged seal": lambda at: flip(at / SEAL, 50),
    "an empty seal": lambda at: (at / SEAL).write_text("", encoding="utf-8"),
    "a seal that is a list": lambda at: (at / SEAL).write_text("[]", encoding="utf-8"),
    "no seal": lambda at: (at / SEAL).unlink(),
    "nothing left": _empty,
    "a file in its place": _replace_by_file,
    "a dangling link in its place": _replace_by_link,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_built_again(
    builder: Builder, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = content_digest(builder.target)
    DAMAGES[damage](builder.target)
    builder.use()
    assert builder.count == 2
    assert content_digest(builder.target) == whole
    assert f"{builder.target} is damaged" in caplog.text
    assert not list(builder.target.parent.glob(f"{HALF_BUILT}*"))
    builder.use()
    assert builder.count == 2


@pytest.mark.parametrize("text", ["", "[]", json.dumps({"boot": "x", "files": "y"})])
def test_what_was_noted_is_not_believed_when_it_does_not_fit(builder: Builder, text: str) -> None:
    (builder.target / CHECKED).write_text(text, encoding="utf-8")
    assert is_intact(builder.target)
    flip(builder.target / "disk")
    (builder.target / CHECKED).write_text(text, encoding="utf-8")
    assert not is_intact(builder.target)


def test_all_is_read_again_after_a_reboot(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "boot").write_text("another boot", encoding="utf-8")
    monkeypatch.setattr(entries, "BOOT", tmp_path / "boot")
    read: list[Path] = []

    def damaged(directory: Path) -> str:
        read.append(directory)
        return "damaged"

    monkeypatch.setattr(entries, "content_digest", damaged)
    assert not is_intact(builder.target)
    assert read == [builder.target]


def test_a_copy_of_a_cache_is_intact(builder: Builder, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(builder.target, copy, symlinks=True)
    assert is_intact(copy)


def test_a_failed_rebuild_names_the_damaged_entry(builder: Builder) -> None:
    def fail(directory: Path) -> None:
        raise ImageError("no network")

    flip(builder.target / "disk")
    with pytest.raises(ImageError, match="no network") as error:
        entry(builder.target, fail)
    assert str(builder.target) in error.value.__notes__[0]


def test_a_program_that_uses_a_damaged_entry_keeps_its_files(builder: Builder) -> None:
    with (builder.target / "disk").open("rb") as used:
        flip(builder.target / "root/bin/program")
        builder.use()
        used.seek(40 << 20)
        assert used.read(4) == b"data"


@pytest.mark.parametrize(
    "build",
    [
        lambda cache: rootfs.busybox(cache).path.parent,
        lambda cache: shared_agent.build(cache).parent,
        lambda cache: ksm.program(cache).parent,
    ],
    ids=["root", "agent", "program"],
)
def test_what_sandboxes_run_is_checked(build: Callable[[Path], Path], tmp_path: Path) -> None:
    target = build(tmp_path)
    program = max(
        (path for path in target.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    before = program.read_bytes()
    flip(program, 100)
    assert program.read_bytes() != before
    assert build(tmp_path) == target
    assert program.read_bytes() == before


def test_a_program_that_found_the_disk_full_is_told_as_that(tmp_path: Path) -> None:
    def fill(directory: Path) -> None:
        (directory / "part").write_bytes(b"half")
        run("sh", "-c", "echo 'cc1: error writing: No space left on device' >&2; exit 1")

    with pytest.raises(DiskFull, match="no partial result was kept") as told:
        entry(tmp_path / "images" / "a", fill)
    assert "cc1" in str(told.value.__cause__)
    assert list((tmp_path / "images").iterdir()) == []
    with pytest.raises(CoppiceError, match="exited with 3") as other:
        entry(tmp_path / "images" / "a", lambda directory: run("sh", "-c", "exit 3"))
    assert not isinstance(other.value, DiskFull)
