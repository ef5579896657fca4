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
from harness.guest import image, initramfs
from harness.guest.kernel import extract, from_path, module_files
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
    assert {digest(one.initramfs) for one in (*again, built)} == {digest(built.initramfs)}
    assert {one.sha256 for one in again} == {built.sha256}


def test_a_changed_agent_gives_another_image(
    built: image.GuestImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = tmp_path / "agent"
    shutil.copytree(image.AGENT, agent)
    (agent / "main.c").write_text((agent / "main.c").read_text() + "\n/* changed */\n")
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
    assert list(tmp_path.iterdir()) == [bogus]


def test_a_bzimage_of_unknown_compression_is_refused() -> None:
    data = bytearray(2048)
    data[0x202:0x206] = b"HdrS"
    with pytest.raises(ImageError, match="cannot unpack"):
        extract(bytes(data), "kernel")


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
    apart = [name for name in names if name.startswith(b"modules/pci/")]
    assert apart and apart[-1].endswith(b"-virtio_pci.ko")
    assert {name[15:] for name in apart}.isdisjoint(
        name[11:] for name in names if name not in apart
    )


def test_modules_come_after_their_dependencies(built: image.GuestImage) -> None:
    (kernel,) = sorted((cache_directory() / "kernels").glob("linux-image-*"))[-1:]
    names = [path.stem for path in module_files(kernel / "modules", image.MODULES)]
    assert names.index("virtio_ring") < names.index("virtio_mmio")
    assert names.index("failover") < names.index("net_failover") < names.index("virtio_net")
    with pytest.raises(ImageError, match="no module nonsense"):
        module_files(kernel / "modules", ["nonsense"])


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
