"""The guest image: equal bytes of equal inputs, and clear refusals."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from harness.errors import CoppiceError, ImageError, MissingTool
from harness.guest import image, initramfs
from harness.guest.kernel import extract, from_path, module_files
from harness.host.run import cache_folder
from harness.measure.record import digest
from tests.guests import borrowed_cache


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> image.GuestImage:
    """An image built into a cache that has the kernel and nothing else."""
    image.build(cache_folder())
    return image.build(borrowed_cache(tmp_path_factory.mktemp("one"), "kernels"))


@pytest.fixture(scope="module")
def kernel_home(built: image.GuestImage) -> Path:
    return built.kernel.resolve().parent


def test_equal_inputs_give_equal_bytes(built: image.GuestImage, tmp_path: Path) -> None:
    again = image.build(borrowed_cache(tmp_path / "two", "kernels"))
    assert again.initramfs != built.initramfs
    assert digest(again.initramfs) == digest(built.initramfs)
    assert (again.sha256, again.built_from) == (built.sha256, built.built_from)


def test_an_image_that_is_there_is_not_built_again(built: image.GuestImage) -> None:
    before = built.initramfs.stat()
    again = image.build(built.initramfs.parents[2])
    assert again == built
    assert again.initramfs.stat().st_mtime_ns == before.st_mtime_ns


def test_a_changed_agent_gives_another_image(
    built: image.GuestImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "agent"
    shutil.copytree(image.AGENT, changed)
    source = changed / "main.c"
    text = source.read_text()
    assert "coppice agent: cannot open" in text
    source.write_text(text.replace("coppice agent: cannot open", "coppice agent: could not open"))
    monkeypatch.setattr(image, "AGENT", changed)
    other = image.build(borrowed_cache(tmp_path / "cache", "kernels"))
    assert other.initramfs.parent.name != built.initramfs.parent.name
    assert other.built_from["agent_sha256"] != built.built_from["agent_sha256"]
    assert other.sha256 != built.sha256


def test_an_agent_that_does_not_compile_says_so_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "agent"
    shutil.copytree(image.AGENT, broken)
    (broken / "main.c").write_text("int main(void) { return nothing; }\n")
    monkeypatch.setattr(image, "AGENT", broken)
    cache = borrowed_cache(tmp_path / "cache", "kernels")
    with pytest.raises(CoppiceError, match="nothing"):
        image.build(cache)
    assert list((cache / "images").iterdir()) == []


def test_without_a_compiler_the_install_command_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busybox = shutil.which("busybox")
    assert busybox
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/busybox").symlink_to(busybox)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(MissingTool, match="musl-gcc is not installed") as missing:
        image.build(borrowed_cache(tmp_path / "cache", "kernels"))
    assert "apt-get install musl-tools" in (missing.value.hint or "")
    assert missing.value.exit_code == 69


def test_a_kernel_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "kernel"
    text.write_text("not a kernel\n" * 100)
    monkeypatch.setenv("COPPICE_KERNEL", str(text))
    with pytest.raises(ImageError, match="is not a kernel") as refused:
        image.build(tmp_path / "cache")
    assert "COPPICE_KERNEL" in (refused.value.hint or "")
    assert refused.value.exit_code == 65


@pytest.mark.parametrize(
    "content", [b"", b"\x7fEL", bytes(0x202) + b"HdrS", bytes(0x202) + b"HdrS" + bytes(4096)]
)
def test_no_content_is_taken_for_a_kernel_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kernel").write_bytes(content)
    with pytest.raises(ImageError):
        from_path(tmp_path / "kernel", None, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("vmlinux"))


def test_a_kernel_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        from_path(tmp_path / "none", None, tmp_path)
    with pytest.raises(ImageError, match="Is a directory"):
        from_path(tmp_path, None, tmp_path)


def test_a_compressed_kernel_is_unpacked_and_a_truncated_one_refused(
    kernel_home: Path, tmp_path: Path
) -> None:
    (compressed,) = (kernel_home / "unpacked/boot").glob("vmlinuz-*")
    data = compressed.read_bytes()
    assert extract(data, "it") == (kernel_home / "vmlinux").read_bytes()
    for part in (2, 4):
        with pytest.raises(ImageError):
            extract(data[: len(data) // part], "it")


def test_an_elf_kernel_is_taken_as_it_is(kernel_home: Path, tmp_path: Path) -> None:
    assert from_path(kernel_home / "vmlinux", None, tmp_path).vmlinux == kernel_home / "vmlinux"
    assert not list(tmp_path.iterdir())


def test_the_cpio_program_reads_the_archive(built: image.GuestImage, tmp_path: Path) -> None:
    if not shutil.which("cpio"):
        pytest.skip("the cpio program is not installed: apt-get install cpio")
    with built.initramfs.open("rb") as archive:
        done = subprocess.run(
            ["cpio", "--extract", "--make-directories", "--quiet", "--no-preserve-owner"],
            stdin=archive, cwd=tmp_path, capture_output=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "init").read_bytes()[:4] == b"\x7fELF"
    assert stat.S_IMODE((tmp_path / "init").stat().st_mode) == 0o755
    assert {(tmp_path / "bin" / name).readlink() for name in image.APPLETS} == {Path("busybox")}
    assert (tmp_path / "bin/busybox").read_bytes() == Path(
        shutil.which("busybox") or ""
    ).resolve().read_bytes()
    assert (tmp_path / "etc/passwd").read_text().startswith("root:")


def test_names_and_contents_of_every_length_stay_aligned(tmp_path: Path) -> None:
    entries = [initramfs.file("n" * (1 + size), b"c" * size) for size in range(9)]
    data = initramfs.archive(entries)
    assert len(data) % 4 == 0
    if shutil.which("cpio"):
        subprocess.run(["cpio", "-i", "--quiet"], input=data, cwd=tmp_path, check=True)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
            entry.path: entry.content for entry in entries
        }


def test_every_module_comes_after_what_it_needs(kernel_home: Path) -> None:
    modules = module_files(kernel_home / "modules", image.MODULES)
    names = [path.stem.replace("-", "_") for path in modules]
    assert set(image.MODULES) <= set(names)
    assert len(names) == len(set(names))
    needing = 0
    for at, path in enumerate(modules):
        depends = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for needed in filter(None, depends[1].decode().split(",") if depends else ()):
            assert needed.replace("-", "_") in names[:at]
            needing += 1
    assert needing  # else nothing was compared


def test_a_module_that_is_not_there_is_refused(kernel_home: Path) -> None:
    with pytest.raises(ImageError, match="no module none_such"):
        module_files(kernel_home / "modules", ("none_such",))
