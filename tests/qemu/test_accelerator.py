"""The choice of accelerator: KVM that is absent, refuses or does not answer; real VMMs try it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.errors import MissingPrivilege, Unsupported, UsageError
from harness.guest.image import GuestImage, build
from harness.host import kvm_device
from harness.host.run import Run
from harness.host.session import open_run
from harness.measure.used_images import and_used, forget
from harness.paths import cache_directory
from harness.sandbox.qemu import accelerator, accelerator_state, kvm_trial
from harness.sandbox.qemu.accelerator import choose
from harness.sandbox.qemu.decisions import Outcome
from harness.sandbox.qemu.kvm_trial import Trial, try_kvm, usable_model
from harness.sandbox.qemu.machine import Shape
from harness.sandbox.qemu.sandbox import QemuSandbox

SHIM = Path(__file__).with_name("refusing_kvm.c")
CREATE_VCPU, ARCH_CAPABILITIES = "-DREQUEST=0xae41", "-DREGISTER=0x10a"
Shim = Callable[[str], Run]
needs_kvm = pytest.mark.skipif(
    kvm_device.refusal() is not None, reason=f"KVM cannot be used: {kvm_device.refusal()}"
)


@pytest.fixture(autouse=True)
def nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COPPICE_ACCELERATOR", "COPPICE_CPU", "COPPICE_MACHINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def image() -> GuestImage:
    return build(cache_directory())


@pytest.fixture
def refusing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shim]:
    """A run whose VMMs find a KVM that refuses something."""
    compiler = shutil.which("gcc") or shutil.which("musl-gcc")
    if not compiler:
        pytest.skip("no C compiler")
    monkeypatch.setenv("COPPICE_CONFINEMENT", "none")  # a jail would not show the library
    with open_run(tmp_path / "runtime") as run:

        def preload(what: str) -> Run:
            library = tmp_path / "refusing.so"
            flags = ("-shared", "-fPIC", "-O1", what)
            subprocess.run([compiler, *flags, "-o", library, SHIM], check=True)
            usual = dict(run.environment)
            monkeypatch.setattr(
                Run, "environment", property(lambda _: {**usual, "LD_PRELOAD": str(library)})
            )
            return run

        yield preload


def test_an_absent_kvm_is_told(
    run: Run, image: GuestImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvm_device, "KVM", tmp_path / "kvm")
    found = choose(run, tmp_path, image)
    assert found.name == "tcg" and "does not exist" in found.reason
    assert accelerator_state.state(tmp_path).reason == found.reason
    (tmp_path / "kvm").write_text("", encoding="utf-8")
    assert "is not KVM's device" in choose(run, tmp_path, image).reason
    monkeypatch.setenv("COPPICE_ACCELERATOR", "kvm")
    with pytest.raises(Unsupported, match="modprobe kvm_intel"):
        choose(run, tmp_path, image)
    monkeypatch.setattr(
        kvm_device, "refusal", lambda _: MissingPrivilege("no rights", hint="usermod -aG kvm")
    )
    with pytest.raises(MissingPrivilege, match="usermod"):
        choose(run, tmp_path, image)


def test_what_cannot_be_insisted_on(
    run: Run, image: GuestImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPPICE_ACCELERATOR", "magic")
    with pytest.raises(UsageError, match="must be kvm or tcg"):
        choose(run, tmp_path, image)
    monkeypatch.setenv("COPPICE_ACCELERATOR", "tcg")
    for text, why in (
        ("no-such-cpu", "unable to find CPU model"),
        ("Nehalem,+no-such-flag", "not found"),
        ("a model", "must be MODEL"),
        ("host", "needs KVM"),
    ):
        monkeypatch.setenv("COPPICE_CPU", text)
        with pytest.raises(UsageError, match=why) as refused:
            choose(run, tmp_path, image)
        assert "-cpu help" in str(refused.value)
    monkeypatch.setenv("COPPICE_CPU", "Nehalem")  # QEMU emulates no spec-ctrl
    with pytest.raises(Unsupported, match="it lacks spec-ctrl"):
        choose(run, tmp_path, image)
    monkeypatch.setenv("COPPICE_CPU", "Nehalem,-spec-ctrl")
    found = choose(run, tmp_path, image)
    assert (found.name, found.cpu) == ("tcg", "Nehalem,-spec-ctrl,enforce")
    monkeypatch.setenv("COPPICE_MACHINE", "microvm; reboot")
    with pytest.raises(UsageError, match="-M microvm,help"):
        choose(run, tmp_path, image)
    monkeypatch.setenv("COPPICE_MACHINE", "microvm,no-such-option=1")
    with pytest.raises(UsageError, match="has no property no-such-option"):
        choose(run, tmp_path, image)
    monkeypatch.setenv("COPPICE_MACHINE", "microvm,acpi=off")
    assert choose(run, tmp_path, image).shape.facts()["machine"] == "microvm,acpi=off"


@needs_kvm
def test_a_rate_that_this_host_cannot_scale_to(
    run: Run, image: GuestImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kvm_device.scales_tsc():
        pytest.skip("this KVM scales the TSC")
    monkeypatch.setenv("COPPICE_ACCELERATOR", "kvm")
    monkeypatch.setenv("COPPICE_CPU", "host,-arch-capabilities,tsc-frequency=1000000000")
    with pytest.raises(Unsupported, match="cannot be scaled to 1000000 kHz") as refused:
        choose(run, tmp_path, image)
    assert "leave tsc-frequency out" in str(refused.value)


@needs_kvm
def test_a_kvm_that_refuses_a_vcpu_is_not_used(
    refusing: Shim, image: GuestImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = refusing(CREATE_VCPU)
    forget()
    found = choose(run, tmp_path, image)
    assert found.name == "tcg" and "Invalid argument" in found.reason
    (told,) = (each for each in and_used([]) if each.name == "accelerator")
    assert told.built_from["kvm_opens"] is True
    assert told.built_from["reason"] == found.reason and told.built_from["tried"]
    known = accelerator_state.state(tmp_path)
    assert known.name == "tcg" and known.remedy == "coppice doctor --again"
    assert "seconds ago, holds for another" in known.reason
    monkeypatch.setenv("COPPICE_ACCELERATOR", "kvm")
    with pytest.raises(Unsupported, match=r"no VMM starts under /dev/kvm.*Invalid argument"):
        choose(run, tmp_path, image)


@needs_kvm
def test_a_register_that_is_announced_and_refused_is_left_out(refusing: Shim) -> None:
    run = refusing(ARCH_CAPABILITIES)
    shape, why = usable_model(run, Shape("kvm"))
    if not why:
        pytest.skip("this KVM does not announce ARCH_CAPABILITIES")
    assert shape.cpu == "host,-arch-capabilities" and "0x10a" in why
    assert shape.processor and "7.0.edx" in shape.processor.cpuid


@needs_kvm
def test_the_choice_has_the_model_that_was_tried(
    refusing: Shim, image: GuestImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest's answer is a fake: ordinary guests do not answer under every KVM."""
    run = refusing(ARCH_CAPABILITIES)
    if not usable_model(run, Shape("kvm"))[1]:
        pytest.skip("this KVM does not announce ARCH_CAPABILITIES")
    monkeypatch.setattr(kvm_trial, "kernel_mode_emulated", lambda facts: None)
    monkeypatch.setattr(
        kvm_trial,
        "_boot",
        lambda run, image, shape: Trial(Outcome.ANSWERED, "a guest answered", shape.cpu_model),
    )
    for _ in range(2):  # tried, then kept
        found = choose(run, tmp_path, image)
        assert (found.name, found.cpu) == ("kvm", "host,-arch-capabilities")
        assert "0x10a" in found.reason and found.shape.processor
    assert "0x10a" in accelerator_state.state(tmp_path).reason
    facts = found.as_record().built_from
    assert facts["host_kernel"] == os.uname().release and facts["tsc_khz"]


@needs_kvm
def test_one_that_refuses_from_now_on_is_tried_anew(
    refusing: Shim, image: GuestImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = refusing(CREATE_VCPU)
    answered = Trial(Outcome.ANSWERED, "a guest answered", "host")
    trials = iter([answered, Trial(Outcome.REFUSED, "it refuses now", "host")])
    monkeypatch.setattr(accelerator, "try_kvm", lambda *_: next(trials))
    found = choose(run, tmp_path, image)
    assert (found.name, found.reason) == ("tcg", "it refuses now")


@needs_kvm
def test_the_trial_is_a_real_guest(
    run: Run, image: GuestImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = try_kvm(run, cache_directory(), image, Shape("kvm"))
    if "emulates" in quick.reason:
        monkeypatch.setattr(kvm_trial, "ENOUGH_S", 1.0)  # the whole takes a minute here
    monkeypatch.setattr(kvm_trial, "kernel_mode_emulated", lambda facts: None)
    booted = try_kvm(run, cache_directory(), image, Shape("kvm"))
    assert "/dev/kvm" in booted.reason and "guest answered" in booted.reason
    if "emulates the guest's kernel" in quick.reason:  # the measurement said what the boot says
        assert quick.outcome is booted.outcome is Outcome.REFUSED
    else:
        assert quick.outcome is booted.outcome


def test_a_guest_without_progress_is_no_busy_host(
    run: Run, image: GuestImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulated guests stand for those under KVM: one that is stopped, and one that gets no
    processor within the limit."""
    monkeypatch.setattr(kvm_trial, "STILL_S", 1.0)
    monkeypatch.setattr(kvm_trial, "LOOK_S", 0.2)
    usual = QemuSandbox.awaken

    def stopped(guest: QemuSandbox, timeout_s: float, dated: bool = False) -> float:
        os.kill(guest.vmm.process.pid, signal.SIGSTOP)
        return usual(guest, timeout_s, dated)

    with monkeypatch.context() as patched:
        patched.setattr(QemuSandbox, "awaken", stopped)
        found = kvm_trial._boot(run, image, Shape("tcg"))
    assert found.outcome is Outcome.REFUSED and "stands still" in found.reason
    # How long the VMM itself may take stays as it is.
    monkeypatch.setattr(kvm_trial, "LIMIT_S", 0.0)
    monkeypatch.setattr(kvm_trial, "LOOK_S", 0.001)
    found = kvm_trial._boot(run, image, Shape("tcg"))
    assert found.outcome is Outcome.BUSY and "too busy" in found.reason
    monkeypatch.setattr(kvm_trial, "ENOUGH_S", 0.0)
    found = kvm_trial._boot(run, image, Shape("tcg"))
    assert found.outcome is Outcome.REFUSED and "had a processor for" in found.reason
