"""A slim kernel's build, on a source of a few lines with the real tools: what a build checks, what
it leaves when it is killed or has no room, and which kernel guests get.

`bin/mise run test:kernel` builds the real one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.errors import CommandFailed, CoppiceError, DiskFull, ImageError, MissingTool
from harness.guest.kernel_build import configuration, slim, source
from harness.guest.kernel_build.make import make
from harness.guest.kernel_build.source import SourcePackage
from harness.host import cache as sealed
from harness.host import file_system
from harness.host.run import Run
from harness.measure.record import digest

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("make", "gcc", "strip", "xz", "tar")),
    reason="a build needs make, gcc, binutils and xz",
)
PACKAGE = SourcePackage("linux-source-6.1", "6.1.192-3", "0" * 64, 1000)
MAKEFILE = """
allnoconfig:
\tgrep -v CONFIG_DROPPED $(KCONFIG_ALLCONFIG) > .config
vmlinux: kernel/a.o kernel/b.o
\t@echo '  LD      vmlinux'; $(CC) -static -nostdlib -o $@ $^
kernel/%.o: kernel/%.c
\t@echo '  CC      $@'; $(CC) -c -o $@ $<
"""


def _tree(directory: Path, makefile: str = MAKEFILE) -> Path:
    """A source that is built by the same steps as Linux."""
    (directory / "kernel").mkdir(parents=True)
    (directory / "Makefile").write_text(makefile, encoding="utf-8")
    (directory / "kernel/a.c").write_text("void _start(void) { for (;;); }\n", encoding="utf-8")
    (directory / "kernel/b.c").write_text("int b;\n", encoding="utf-8")
    return directory


def _offers(monkeypatch: pytest.MonkeyPatch, makefile: str = MAKEFILE) -> None:
    """Let apt offer that source, packed as the distribution packs it."""

    def unpack(package: SourcePackage, directory: Path) -> Path:
        root = _tree(directory / "linux-source-6.1", makefile)
        packed = directory / "package"
        packed.mkdir()
        archive = packed / "linux-source-6.1.tar.xz"
        subprocess.run(["tar", "-cJf", archive, "-C", directory, root.name], check=True)
        return source.unpack_archive(packed, directory / "tree")

    monkeypatch.setattr(source, "newest", lambda: PACKAGE)
    monkeypatch.setattr(source, "unpack", unpack)
    monkeypatch.setattr(slim, "require_tools", lambda: None)


def test_a_build_is_sealed_and_found_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _offers(monkeypatch)
    built, new = slim.build(run, tmp_path)
    assert new
    assert sealed.is_intact(built.directory)
    assert built.vmlinux.read_bytes()[:4] == b"\x7fELF"
    assert not (built.directory / "work").exists()
    wanted = configuration.parse(configuration.SLIM.read_text(encoding="utf-8"))
    assert configuration.lost(wanted, configuration.parse((built.directory / "config").read_text(
        encoding="utf-8"))) == []  # fmt: skip
    again, new = slim.build(run, tmp_path)
    assert not new
    assert again == built == slim.newest(tmp_path)


def test_a_second_build_waits_for_the_first(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _offers(monkeypatch)
    with ThreadPoolExecutor(2) as both:
        made = [both.submit(slim.build, run, tmp_path) for _ in range(2)]
        kernels = [one.result(60) for one in made]
    assert sorted(new for _, new in kernels) == [False, True]
    assert kernels[0][0] == kernels[1][0]


def test_another_source_configuration_or_compiler_gives_another_kernel(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _offers(monkeypatch)
    first, _ = slim.build(run, tmp_path)
    facts = slim.facts_of(PACKAGE)
    assert facts["compiler"].startswith("gcc")
    newer = SourcePackage(PACKAGE.name, "6.1.1000-1", "1" * 64, 1000)
    monkeypatch.setattr(source, "newest", lambda: newer)
    second, new = slim.build(run, tmp_path)
    assert new
    assert second.directory != first.directory
    assert slim.newest(tmp_path).directory == second.directory
    other = tmp_path / "slim.config"
    other.write_text(configuration.SLIM.read_text(encoding="utf-8") + "CONFIG_TUN=y\n", "utf-8")
    monkeypatch.setattr(configuration, "SLIM", other)
    with pytest.raises(ImageError, match="was built with an older configuration") as refusal:
        slim.newest(tmp_path)
    assert refusal.value.hint is not None
    assert slim.BUILD in refusal.value.hint
    third, new = slim.build(run, tmp_path)
    assert new
    assert third.facts["configuration_sha256"] == digest(other)
    assert {one.directory: one.current for one in slim.kept(tmp_path)} == {
        first.directory: False, second.directory: False, third.directory: True,
    }  # fmt: skip


def test_an_option_that_does_not_survive_fails_the_build(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "slim.config"
    own.write_text("CONFIG_KEPT=y\nCONFIG_DROPPED=y\n# CONFIG_OFF is not set\n", encoding="utf-8")
    monkeypatch.setattr(configuration, "SLIM", own)
    _offers(monkeypatch)
    with pytest.raises(ImageError, match=r"1 wanted options: CONFIG_DROPPED=y \(is n\)"):
        slim.build(run, tmp_path / "cache")
    assert list((tmp_path / "cache/kernels").iterdir()) == []


def test_options_keep_their_older_names() -> None:
    wanted = {"CONFIG_MITIGATION_RETPOLINE": "y", "CONFIG_SMP": configuration.OFF}
    rendered = configuration.render(wanted)
    assert configuration.parse(rendered) == {**wanted, "CONFIG_RETPOLINE": "y"}
    assert configuration.lost(wanted, {"CONFIG_RETPOLINE": "y"}) == []
    assert configuration.lost(wanted, {"CONFIG_MITIGATION_RETPOLINE": "y"}) == []
    assert configuration.lost(wanted, {"CONFIG_SMP": "y"}) == [
        "CONFIG_MITIGATION_RETPOLINE=y (is n)",
        "CONFIG_SMP=n (is y)",
    ]


def test_an_option_may_have_had_an_opposite() -> None:
    """BASE_SMALL was a number, decided by BASE_FULL, before Linux 6.10."""
    wanted = {"CONFIG_BASE_SMALL": configuration.OFF}
    rendered = configuration.parse(configuration.render(wanted))
    assert rendered == {"CONFIG_BASE_SMALL": configuration.OFF, "CONFIG_BASE_FULL": "y"}
    for kept in ({"CONFIG_BASE_SMALL": "n"}, {"CONFIG_BASE_FULL": "y", "CONFIG_BASE_SMALL": "0"}):
        assert configuration.lost(wanted, kept) == []
    for gone in ({"CONFIG_BASE_SMALL": "y"}, {"CONFIG_BASE_FULL": "n", "CONFIG_BASE_SMALL": "1"}):
        assert len(configuration.lost(wanted, gone)) == 1


def test_an_option_that_is_off_is_off_by_its_older_name_too() -> None:
    wanted = {"CONFIG_MITIGATION_RETPOLINE": configuration.OFF}
    assert configuration.lost(wanted, {"CONFIG_SMP": "n"}) == []
    assert len(configuration.lost(wanted, {"CONFIG_RETPOLINE": "y"})) == 1


def test_the_slim_configuration_names_each_option_once() -> None:
    lines = configuration.SLIM.read_text(encoding="utf-8").splitlines()
    options = [line for line in lines if configuration.parse(line)]
    assert len(configuration.parse("\n".join(lines))) == len(options) > 50
    assert not [line for line in lines if line.startswith("CONFIG_") and "=" not in line]


def test_a_failing_make_leaves_nothing_and_says_why(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _offers(monkeypatch, MAKEFILE.replace("-c -o", "-c -fno-such-option -o"))
    with pytest.raises(CommandFailed, match=r"make vmlinux failed: .*no-such-option"):
        slim.build(run, tmp_path)
    assert list((tmp_path / "kernels").iterdir()) == []


def test_room_that_runs_out_half_way_is_a_full_disk(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = "echo 'ld: final link failed: No space left on device' >&2; exit 1"
    _offers(monkeypatch, MAKEFILE.replace("$(CC) -static", f"{full}; $(CC) -static"))
    with pytest.raises(DiskFull, match="no partial result was kept") as told:
        slim.build(run, tmp_path)
    assert "final link failed" in str(told.value.__cause__)
    assert list((tmp_path / "kernels").iterdir()) == []


def _works(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2][1] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


KILLED = """
import sys
from pathlib import Path
from harness.guest.kernel_build import slim, source
from harness.guest.kernel_build.source import SourcePackage
from harness.host.session import open_run
from tests.guest import test_kernel_build as tests
import pytest

with pytest.MonkeyPatch.context() as patch, open_run() as run:
    slow = tests.MAKEFILE.replace("$(CC) -c", "echo $$PPID > ../pid; sleep 1000; $(CC) -c")
    tests._offers(patch, slow)
    slim.build(run, Path(sys.argv[1]))
"""


def test_a_build_that_is_killed_half_way_is_started_clean(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL while make runs: the next build removes what is there, and make too has ended."""
    kernels = tmp_path / "kernels"
    environment = {**os.environ, "COPPICE_RUNTIME": str(tmp_path / "runtime")}
    killed = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env=environment)
    try:
        deadline = time.monotonic() + 60
        while not (begun := [p for p in kernels.glob("*/*/pid") if p.read_text("utf-8")]):
            assert killed.poll() is None
            assert time.monotonic() < deadline, "make did not start"
            time.sleep(0.02)
        maker = int(begun[0].read_text(encoding="utf-8"))
        assert _works(maker)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert [path.name for path in kernels.iterdir()] == [begun[0].parents[1].name]
    cleaning = [sys.executable, "-m", "harness", "clean"]
    subprocess.run(cleaning, env={**environment, "COPPICE_CACHE": str(tmp_path)}, check=True)
    assert list(kernels.iterdir()) == []
    assert not _works(maker)
    _offers(monkeypatch)
    built, new = slim.build(run, tmp_path)
    assert new
    assert list(kernels.iterdir()) == [built.directory]


def test_the_next_build_itself_removes_what_a_killed_one_has_left(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "kernels" / ".building-killed"
    _tree(left / "work" / "tree")
    _offers(monkeypatch)
    built, _ = slim.build(run, tmp_path)
    assert list((tmp_path / "kernels").iterdir()) == [built.directory]


def test_an_interrupt_ends_make(run: Run, tmp_path: Path) -> None:
    tree = _tree(tmp_path / "tree", "all:\n\t@echo $$PPID; sleep 1000\n")
    seen = []

    def take(line: str) -> None:
        seen.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(run, tree, "all", take=take)
    assert not _works(seen[0])


def test_without_room_nothing_is_downloaded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _offers(monkeypatch)
    monkeypatch.setattr(file_system, "room", lambda place: 929 << 20)
    monkeypatch.setattr(source, "newest", lambda: SourcePackage("s", "6.1", "0" * 64, 140 << 20))
    monkeypatch.setattr(source, "unpack", lambda *given: pytest.fail("it was downloaded"))
    with pytest.raises(DiskFull, match=r"needs 1120 MiB in .*, which has 929 MiB to spare") as told:
        slim.build(run, tmp_path)
    assert told.value.hint is not None
    assert "free some space" in told.value.hint


def test_all_missing_tools_are_named_with_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    there = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name: None if name in ("flex", "bison", "ld") else there(name)
    )
    monkeypatch.setattr(slim, "ELF_HEADER", Path("/nowhere/gelf.h"))
    with pytest.raises(MissingTool, match=r"ld, flex, bison, gelf\.h") as told:
        slim.require_tools()
    assert told.value.hint is not None
    assert told.value.hint.startswith("apt-get install ")
    assert {"binutils", "flex", "bison", "libelf-dev"} <= set(told.value.hint.split())


def test_the_source_is_the_one_that_apt_shows() -> None:
    shown = (
        "Package: linux-source-6.1\nVersion: 6.1.192-3\nInstalled-Size: 136068\n"
        "Description: source\n with a text\nSize: 139330232\nSHA256: " + "5" * 64 + "\n\n"
    )
    assert source.parse(shown) == SourcePackage(
        "linux-source-6.1", "6.1.192-3", "5" * 64, 139330232
    )
    with pytest.raises(ImageError, match="without 'SHA256'"):
        source.parse(shown.replace("SHA256", "MD5sum"))


def test_a_source_that_apt_cannot_fetch_names_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    apt.write_text("#!/bin/sh\necho 'E: Failed to fetch: 404' >&2\nexit 100\n", encoding="utf-8")
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{apt.parent}:{os.environ['PATH']}")
    (tmp_path / "work").mkdir()
    with pytest.raises(CoppiceError, match=r"exited with 100: E: Failed to fetch: 404") as told:
        source.unpack(PACKAGE, tmp_path / "work")
    assert told.value.hint is not None
    assert told.value.hint.startswith("apt-get update")


def test_apt_offers_a_source_here() -> None:
    if shutil.which("apt-cache") is None:
        pytest.skip("no apt")
    found = source.newest()
    assert found.name.startswith("linux-source-")
    assert found.size > 50 << 20
