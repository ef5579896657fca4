"""Kernels and modules as distributions ship them: every compression, both layouts, damaged ones."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import ImageError, MissingTool
from harness.guest import compression, kernel, modules
from harness.host.cache import entry

VMLINUX = b"\x7fELF" + bytes(range(256)) * 64
"""A placeholder for a kernel; unpacking must give these bytes."""


def _piped(program: str, *arguments: str) -> Callable[[bytes], bytes]:
    def pack(data: bytes) -> bytes:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
        return subprocess.run(
            [program, *arguments], input=data, stdout=subprocess.PIPE, check=True
        ).stdout

    return pack


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "xz": lambda data: lzma.compress(data, lzma.FORMAT_XZ, check=lzma.CHECK_CRC32),
    "lzo": _piped("lzop", "-9"),
    "lz4": _piped("lz4", "-l", "-9", "-c"),
    "zstd": _piped("zstd", "-19", "-c"),
}
"""The kernel's build calls the same programs with the same options."""


def bzimage(payload: bytes) -> bytes:
    """A bzImage with only its payload and the payload's position."""
    head = bytearray(5 * 512)
    head[0x1F1] = 4
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 64, len(payload))
    return bytes(head) + bytes(64) + payload + b"a signature, say"


def payload(name: str, data: bytes = VMLINUX) -> bytes:
    """As built by the kernel: with the size appended unless the format ends with it."""
    packed = PACKERS[name](data)
    return packed if name == "gzip" else packed + struct.pack("<I", len(data))


def test_every_supported_format_is_tested_here() -> None:
    assert [known.name for known in compression.FORMATS] == list(PACKERS)


@pytest.mark.parametrize("name", PACKERS)
def test_a_payload_of_every_compression_is_unpacked(name: str) -> None:
    assert kernel.extract(bzimage(payload(name)), "vmlinuz") == VMLINUX


@pytest.mark.parametrize("name", PACKERS)
def test_a_damaged_payload_is_refused(name: str) -> None:
    whole = payload(name)
    cut = whole[: len(whole) // 2]
    with pytest.raises(ImageError, match=rf"damaged: its {name} does not|holds \d+ bytes"):
        kernel.extract(bzimage(cut + whole[-4:]), "vmlinuz")
    with pytest.raises(ImageError, match="is truncated"):
        kernel.extract(bzimage(whole)[:-200], "vmlinuz")


def test_a_payload_of_another_size_than_it_states_is_refused() -> None:
    whole = payload("xz")
    other = whole[:-4] + struct.pack("<I", len(VMLINUX) + 1)
    with pytest.raises(ImageError, match="holds 16388 bytes, not 16389"):
        kernel.extract(bzimage(other), "vmlinuz")
    with pytest.raises(ImageError, match="is not an ELF vmlinux"):
        kernel.extract(bzimage(payload("xz", b"no kernel")), "vmlinuz")


def test_an_unknown_compression_is_refused_and_the_known_are_named() -> None:
    with pytest.raises(
        ImageError, match=r"begins with 01 02 03 04.*gzip, bzip2, lzma, xz"
    ) as raised:
        kernel.extract(bzimage(b"\1\2\3\4" * 8), "vmlinuz")
    assert raised.value.exit_code == 65


@pytest.mark.parametrize(("name", "package"), [("lz4", "lz4"), ("lzo", "lzop"), ("zstd", "zstd")])
def test_a_missing_program_is_named_with_its_package(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = bzimage(payload(name))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match=f"apt-get install {package}"):
        kernel.extract(image, "vmlinuz")


def _module(depends: str = "") -> bytes:
    return b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0"


@pytest.mark.parametrize(
    ("suffix", "packer"), [(".ko", None), (".ko.gz", "gzip"), (".ko.xz", "xz"), (".ko.zst", "zstd")]
)
def test_modules_are_unpacked_and_come_after_what_they_need(
    suffix: str, packer: str | None, tmp_path: Path
) -> None:
    def put(name: str, content: bytes) -> None:
        path = tmp_path / "kernel/drivers" / (name + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PACKERS[packer](content) if packer else content)

    put("virtio_net", _module("net-failover,virtio"))
    put("net-failover", _module("failover"))
    put("failover", _module())
    (tmp_path / "modules.builtin").write_text("kernel/drivers/virtio/virtio.ko\n", encoding="utf-8")
    found = modules.wanted(tmp_path, ["virtio_net", "virtio"])
    assert [module.name for module in found] == ["failover", "net_failover", "virtio_net"]
    assert found[0].content == _module()


def test_a_missing_driver_is_refused_and_a_built_in_driver_is_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "modules.builtin").write_text(
        "kernel/drivers/virtio/virtio_mmio.ko\n", encoding="utf-8"
    )
    assert modules.wanted(tmp_path, ["virtio_mmio"]) == []
    with pytest.raises(ImageError, match=r"no module virtio_net, and .* not .* built in"):
        modules.wanted(tmp_path, ["virtio_net"])
    (tmp_path / "virtio_net.ko.xz").write_bytes(b"\xfd7zXZ\0 torn")
    with pytest.raises(ImageError, match=r"virtio_net\.ko\.xz is damaged: its xz does not"):
        modules.wanted(tmp_path, ["virtio_net"])


@pytest.mark.parametrize("layout", ["lib/modules", "usr/lib/modules"])
def test_a_package_has_its_modules_in_either_place(layout: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="found: none"):
        modules.directory_in(tmp_path)
    (tmp_path / layout / "6.12.0").mkdir(parents=True)
    assert modules.directory_in(tmp_path) == tmp_path / layout / "6.12.0"
    (tmp_path / layout / "6.13.0").mkdir()
    with pytest.raises(ImageError, match=r"6\.12\.0.*6\.13\.0|6\.13\.0.*6\.12\.0"):
        modules.directory_in(tmp_path)


@pytest.mark.parametrize("place", ["boot/vmlinuz-7.2", "usr/lib/modules/7.2/vmlinuz"])
def test_a_kernel_is_found_in_either_place(place: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="one vmlinuz; found: none"):
        kernel.image_in(tmp_path)
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).touch()
    assert kernel.image_in(tmp_path) == tmp_path / place


def test_all_packages_of_a_divided_kernel_are_downloaded() -> None:
    depends = """linux-image-7.2.12+deb14-cloud-amd64
  PreDepends: linux-base
 |Depends: dracut
  Depends: linux-base-7.2.12+deb14-cloud-amd64
  Depends: linux-binary-7.2.12+deb14-cloud-amd64
  Depends: linux-modules-7.2.12+deb14-cloud-amd64
  Suggests: linux-doc-7.2
"""
    assert kernel.parts_of("linux-image-7.2.12+deb14-cloud-amd64", depends) == [
        "linux-base-7.2.12+deb14-cloud-amd64",
        "linux-binary-7.2.12+deb14-cloud-amd64",
        "linux-modules-7.2.12+deb14-cloud-amd64",
    ]
    whole = "  Depends: kmod\n  Depends: linux-base\n"
    assert kernel.parts_of("linux-image-6.12.118-cloud-amd64", whole) == []


def _keep(cache: Path, version: str) -> Path:
    return entry(
        cache / "kernels" / f"linux-image-{version}-cloud-amd64",
        lambda directory: (directory / "version").write_text(version, encoding="utf-8"),
    )


def test_a_damaged_kernel_is_replaced_by_the_newest_that_apt_offers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = _keep(tmp_path, "6.1.0-57")
    (home / "version").write_text("6.1.0-56", encoding="utf-8")
    monkeypatch.setattr(kernel, "_newest", lambda: "linux-image-6.1.0-58-cloud-amd64")
    monkeypatch.setattr(
        kernel,
        "_unpack",
        lambda name, directory: (directory / "version").write_text(name, encoding="utf-8"),
    )
    assert kernel.from_distribution(tmp_path).version == "linux-image-6.1.0-58-cloud-amd64"


def test_the_newest_kernel_in_the_cache_is_used(tmp_path: Path) -> None:
    for version in ("6.1.0-57", "6.12.118", "6.1.0-9"):
        _keep(tmp_path, version)
    assert kernel.from_distribution(tmp_path).version == "6.12.118"
