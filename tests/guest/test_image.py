"""The guest image: equal inputs give equal bytes, and errors are clear."""

from __future__ import annotations

import io
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from harness.errors import ImageError, MissingTool
from harness.gateway.fleets.microvm import ENVD
from harness.guest import image, initramfs, modules
from harness.guest.kernel import from_path
from harness.host.run import Run
from harness.measure.record import digest
from harness.paths import cache_directory


@pytest.fixture(scope="module")
def built(run: Run) -> image.GuestImage:
    return image.build(cache_directory())


def _cache_with_kernel(directory: Path) -> Path:
    directory.mkdir()
    (directory / "kernels").symlink_to(cache_directory() / "kernels")
    return directory


def test_equal_inputs_give_equal_bytes(built: image.GuestImage, tmp_path: Path) -> None:
    again = [image.build(_cache_with_kernel(tmp_path / name)) for name in ("a", "b")]
    assert again[0].initramfs != again[1].initramfs
    assert {digest(image.initramfs) for image in (*again, built)} == {digest(built.initramfs)}
    assert {image.sha256 for image in again} == {built.sha256}


def test_a_changed_agent_gives_another_image(
    built: image.GuestImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = tmp_path / "agent"
    shutil.copytree(image.AGENT, agent)
    (agent / "main.c").write_text(
        (agent / "main.c").read_text(encoding="utf-8") + "\n/* changed */\n", encoding="utf-8"
    )
    monkeypatch.setattr(image, "AGENT", agent)
    other = image.build(_cache_with_kernel(tmp_path / "cache"))
    assert other.initramfs.parent.name != built.initramfs.parent.name


def test_a_file_that_is_not_a_kernel_is_refused(tmp_path: Path) -> None:
    bogus = tmp_path / "vmlinuz"
    bogus.write_bytes(b"not a kernel" * 100)
    with pytest.raises(ImageError, match="is not a kernel") as refusal:
        from_path(bogus, None, tmp_path)
    assert refusal.value.exit_code == 65
    with pytest.raises(ImageError, match="cannot read the kernel"):
        from_path(tmp_path / "absent", None, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [bogus]


def test_a_missing_compiler_is_named_with_its_package(
    built: image.GuestImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_busybox = tmp_path / "bin"
    only_busybox.mkdir()
    (only_busybox / "busybox").symlink_to("/bin/busybox")
    cache = _cache_with_kernel(tmp_path / "cache")
    monkeypatch.setenv("PATH", str(only_busybox))
    with pytest.raises(MissingTool, match="musl-gcc is not installed") as refusal:
        image.build(cache)
    assert "apt-get install musl-tools" in str(refusal.value)


def test_modules_for_pci_are_kept_apart_from_those_of_every_guest(
    built: image.GuestImage,
) -> None:
    names = re.findall(rb"modules/(?:pci/)?\d\d-\w+\.ko", built.initramfs.read_bytes())
    apart = [name[15:-3].decode() for name in names if name.startswith(b"modules/pci/")]
    common = [name[11:-3].decode() for name in names if not name.startswith(b"modules/pci/")]
    (kernel,) = sorted((cache_directory() / "kernels").glob("linux-image-*"))[-1:]
    needed = [module.name for module in modules.wanted(kernel / "modules", image.PCI_MODULES)]
    # Empty if the bus's driver is built into the kernel.
    assert apart == [name for name in needed if name not in common]
    assert common[-1] == "virtio_net"


def test_modules_come_after_their_dependencies(built: image.GuestImage) -> None:
    (kernel,) = sorted((cache_directory() / "kernels").glob("linux-image-*"))[-1:]
    names = [module.name for module in modules.wanted(kernel / "modules", image.MODULES)]
    for needed, needing in (("virtio_ring", "virtio_mmio"), ("net_failover", "virtio_net")):
        if needed in names:  # some kernels have it built in
            assert names.index(needed) < names.index(needing)
    assert names[-1] == "virtio_net" or "virtio_net" not in names
    with pytest.raises(ImageError, match="no module nonsense"):
        modules.wanted(kernel / "modules", ["nonsense"])


@pytest.mark.parametrize("size", [4, 1020, 1024, 1028, 3720, 4092, 4096, 3 * 4096])
def test_an_archive_keeps_clear_of_the_tables_at_the_end_of_memory(size: int) -> None:
    """QEMU loads the archive at the last page boundary from which it fits."""
    data = b"x" * size
    placed = initramfs.clear_of_tables(data)
    assert placed.rstrip(b"\0") == data and len(placed) - size <= 4096
    behind = -len(placed) % 4096
    assert behind >= initramfs.TABLES
    assert placed == data or -size % 4096 < initramfs.TABLES


def test_no_image_is_written_over_its_vmms_tables(built: image.GuestImage) -> None:
    envd = image.build(cache_directory(), ENVD)
    for guest in (built, envd):
        assert -guest.initramfs.stat().st_size % 4096 >= initramfs.TABLES


def test_cpio_reads_the_archive() -> None:
    data = initramfs.archive(
        [
            initramfs.directory("bin"),
            initramfs.program("bin/tool", b"#!x\n"),
            initramfs.link("bin/sh", "tool"),
        ]
    )
    listed = subprocess.run(["cpio", "-itv"], input=data, capture_output=True, check=True)
    lines = listed.stdout.decode().splitlines()
    assert lines[1].startswith("-rwxr-xr-x") and lines[2].endswith("bin/sh -> tool")
    assert io.BytesIO(data).read(6) == b"070701"
    assert stat.S_ISDIR(initramfs.directory("x").mode)
