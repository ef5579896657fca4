"""The guest kernel's command line under each accelerator."""

from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.rig import kernel_option
from harness.sandbox.qemu.kernel_arguments import EXTRA, MOST, line, line_of_bhyve

ONLY_EMULATED = (
    "mitigations=off",
    "noreplace-smp",
    "transparent_hugepage=never",
    "norandmaps",
    "init_on_alloc=0",
    "nokaslr",
)


@pytest.fixture(autouse=True)
def no_words_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EXTRA, raising=False)


def test_what_emulation_spares_is_as_on_a_real_host_under_hardware() -> None:
    emulated, kvm, bhyve = line("tcg").split(), line("kvm").split(), line_of_bhyve().split()
    for word in ONLY_EMULATED:
        assert word in emulated and word not in kvm and word not in bhyve, word
    assert "random.trust_cpu=on" in kvm and "random.trust_cpu=on" in bhyve


@pytest.mark.parametrize("accelerator", ["tcg", "kvm"])
def test_each_accelerator_names_one_clock_and_leaves_the_doorbell_alone(accelerator: str) -> None:
    words = line(accelerator).split()
    clocks = [word for word in words if word.startswith("clocksource=")]
    assert clocks == [f"clocksource={'tsc' if accelerator == 'tcg' else 'kvm-clock'}"]
    assert "nox2apic" in words and "iomem=relaxed" in words
    assert [word for word in words if word.startswith("console=")] == ["console=tty0"]


def test_only_an_emulated_guest_is_told_the_rate_of_its_tsc() -> None:
    assert "tsc_early_khz=2300000" in line("tcg", tsc_khz=2300000).split()
    assert "tsc_early_khz" not in line("tcg") + line("kvm", tsc_khz=2300000)


def test_the_users_words_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EXTRA, "mitigations=off  quiet=0")
    for whole in (line("kvm"), line("tcg", serial=True), line_of_bhyve()):
        assert whole.endswith(" mitigations=off quiet=0")


def test_a_line_that_linux_would_cut_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EXTRA, "x" * MOST)
    with pytest.raises(UsageError, match="characters"):
        line("kvm")
    with pytest.raises(UsageError, match="characters"):
        kernel_option.check({EXTRA: "x" * MOST})


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("na\u00efve=1", "not printable ASCII"),
        ("a=\x1b[1m", "not printable ASCII"),
        ("a=\udcff", "not printable ASCII"),
        ('a="b c', "never closed"),
        ("quiet rdinit=/bin/sh", "rdinit=/bin/sh: without what it replaces"),
        ("coppice.line=ttyS1", "no agent answers"),
        ("-- single", "no agent answers"),
    ],
)
def test_words_that_cannot_work_are_refused(
    given: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EXTRA, given)
    with pytest.raises(UsageError, match=why):
        line("tcg")
    with pytest.raises(UsageError, match=why):
        kernel_option.check({EXTRA: given})


def test_lines_become_words_and_quoted_words_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EXTRA, 'a="b c"\n  init=/bin/sh\td\n')
    assert line("tcg").endswith(' a="b c" init=/bin/sh d')
