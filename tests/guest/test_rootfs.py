"""Root file systems: reproducible, with nothing of this host, and clear errors."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.errors import ImageError
from harness.guest import rootfs
from harness.paths import cache_directory

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="making and entering a root file system needs root"
)


def _inside(root: Path, *argv: str) -> bytes:
    return subprocess.run(["chroot", root, *argv], stdout=subprocess.PIPE, check=True).stdout


def test_the_smallest_root_is_reproducible_and_has_no_devices(tmp_path: Path) -> None:
    first, second = (rootfs.busybox(tmp_path / name) for name in ("a", "b"))
    assert first.path != second.path
    assert first.sha256 == second.sha256 == rootfs.tree_digest(first.path)
    assert not list((first.path / "dev").iterdir())
    assert first.as_record().name == "root-busybox"


@needs_root
def test_programs_of_the_smallest_root_run(tmp_path: Path) -> None:
    root = rootfs.busybox(tmp_path).path
    assert _inside(root, "/bin/echo", "one two") == b"one two\n"
    assert _inside(root, "/bin/sh", "-c", "printf %s $((6 * 7)) | cat") == b"42"


def test_a_digest_depends_on_names_modes_links_and_contents(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    seen = [rootfs.tree_digest(root)]
    (root / "file\nwith a newline").write_text("one", encoding="utf-8")
    seen.append(rootfs.tree_digest(root))
    (root / "file\nwith a newline").write_text("two", encoding="utf-8")
    seen.append(rootfs.tree_digest(root))
    (root / "file\nwith a newline").chmod(0o755)
    seen.append(rootfs.tree_digest(root))
    (root / "link").symlink_to("file")
    seen.append(rootfs.tree_digest(root))
    (root / "link").unlink()
    (root / "link").symlink_to("elsewhere")
    seen.append(rootfs.tree_digest(root))
    assert len(set(seen)) == len(seen)
    os.utime(root / "file\nwith a newline", (0, 0))
    assert rootfs.tree_digest(root) == seen[-1]


def test_an_unsuitable_root_directory_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/")
    for path, why in (
        (link, "is a link to /"),
        (Path("/"), "own root file system"),
        (tmp_path / "absent", "there is no root file system"),
        (tmp_path, "has no /bin/echo"),
    ):
        with pytest.raises(ImageError, match=why):
            rootfs.from_path(path)


@needs_root
@pytest.mark.skipif(shutil.which("debootstrap") is None, reason="needs debootstrap")
def test_a_debian_root_has_python_and_nothing_of_this_host(tmp_path: Path) -> None:
    root = rootfs.debian(cache_directory())
    code = "import json, ssl, sqlite3; print(json.dumps([6 * 7]))"
    assert _inside(root.path, "python3", "-c", code) == b"[42]\n"
    assert (root.path / "etc/machine-id").read_bytes() == b""
    for name in ("etc/hostname", "etc/resolv.conf"):
        assert not (root.path / name).exists()
    assert not list((root.path / "dev").iterdir())
    assert b"python3 3." in (root.path.parent / "versions").read_bytes()
    assert rootfs.debian(cache_directory()) == root
