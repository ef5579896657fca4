"""Checkpoints and saved microVMs of another processor are refused, with the difference."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import CheckpointCorrupt, CheckpointForeign
from harness.gateway.fleets import saved_vm
from harness.host import kvm_device
from harness.host.run import Run
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import processor
from harness.sandbox.qemu.checkpoint import DEVICES, MEMORY, complete, load, path_for
from harness.sandbox.qemu.examination import examine
from harness.sandbox.qemu.machine import Shape
from harness.sandbox.qemu.processor import Processor
from harness.sandbox.qemu.substrate import QemuTemplate
from tests.qemu.conftest import Launch

ELSEWHERE = Processor(
    "AMD EPYC 7763", "vendor=AuthenticAMD family=25 model=1 1.ecx=fffa3203 7.0.ebx=219c97a9",
    2_445_000, "6.1.0-31-amd64", "kvm_amd", named=False,
)  # fmt: skip
FACTS: Mapping[str, str] = {"image": "a"}


@pytest.fixture(scope="module")
def here(run: Run) -> Processor:
    """What a real VMM shows its guest."""
    by = "tcg" if kvm_device.refusal() else "kvm"
    found = examine(run, Shape(by, cpu="qemu64,-svm,-pni,-cx16,-lahf_lm"))
    return found if found.tsc_khz else replace(found, tsc_khz=2_300_000)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A directory for a tiny checkpoint."""
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    (directory / MEMORY).write_bytes(b"memory" * 1000)
    (directory / DEVICES).write_bytes(b"devices")
    return directory


def test_what_a_vmm_shows(here: Processor) -> None:
    words = dict(word.split("=") for word in here.cpuid.split())
    assert words["vendor"] in ("GenuineIntel", "AuthenticAMD") and words["family"] == "15"
    assert int(words["1.edx"], 16) & 1 << 4, "a TSC"
    assert not int(words["1.ecx"], 16) & 1, "pni was left out"
    assert here.name.startswith("QEMU Virtual CPU") and len(here.cpuid_sha256) == 64


def test_what_a_vmm_shows_is_what_its_guest_sees(
    run: Run, launch: Launch, template: QemuTemplate
) -> None:
    """Under KVM a sealed guest is asked on this host: what the manifest says must be true."""
    told = examine(run, replace(template.shape, processor=None))
    guest = launch(Tier.DURABLE_PREWARM_POOL)
    guest.resume()
    text = guest.agent.read_file("/proc/cpuinfo").decode()
    seen = dict(re.findall(r"^([^\t:]+?)\s*: (.*)$", text, re.MULTILINE))
    words = dict(word.split("=") for word in told.cpuid.split())
    assert (seen["vendor_id"], seen["model name"]) == (words["vendor"], told.name)
    for name, word in (("cpu family", "family"), ("model", "model"), ("stepping", "stepping")):
        assert seen[name] == words[word]
    for word, bit, flag in (
        ("1.ecx", 0, "pni"), ("1.ecx", 9, "ssse3"), ("1.ecx", 20, "sse4_2"), ("1.edx", 26, "sse2"),
        ("80000001.edx", 29, "lm"), ("7.0.ebx", 5, "avx2"), ("6.eax", 2, "arat"),
    ):  # fmt: skip
        assert (flag in seen["flags"].split()) == bool(int(words[word], 16) >> bit & 1), flag


def test_a_checkpoint_of_this_processor(made: Path, here: Processor) -> None:
    complete(made, FACTS, shown=here)
    told = load(made, FACTS, here).as_record().built_from
    assert told["cpuid"] == here.cpuid and told["tsc_khz"] == here.tsc_khz
    assert told["host_kernel"] == here.host_kernel and told["kvm_module"] == here.kvm_module


def test_one_of_another_processor(made: Path, here: Processor) -> None:
    complete(made, FACTS, shown=ELSEWHERE)
    with pytest.raises(CheckpointForeign) as refused:
        load(made, FACTS, here)
    text = str(refused.value)
    for part in (
        "AMD EPYC 7763", "6.1.0-31-amd64", "kvm_amd", here.name, "1.ecx (fffa3203 there, ",
        "vendor (AuthenticAMD there", "COPPICE_CPU", "-cpu help", "remove it and run again",
    ):  # fmt: skip
        assert part in text
    assert "image" not in text
    assert refused.value.exit_code == 65


def test_one_that_names_no_processor(made: Path, here: Processor) -> None:
    complete(made, FACTS)
    with pytest.raises(CheckpointForeign, match="does not name the processor"):
        load(made, FACTS, here)
    assert load(made, FACTS).built_from == FACTS


def test_a_tsc_of_another_rate(
    made: Path, here: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(made, FACTS, shown=here)
    recalibrated = replace(here, tsc_khz=round(here.tsc_khz * 1.0002))
    assert load(made, FACTS, recalibrated).directory == made
    for scales in (False, True):
        monkeypatch.setattr(processor, "scales_tsc", lambda scales=scales: scales)
        with pytest.raises(CheckpointForeign, match="clocks would be wrong") as refused:
            load(made, FACTS, replace(here, tsc_khz=round(here.tsc_khz * 1.001)))
        assert (f"tsc-frequency={here.tsc_khz}000" in str(refused.value)) is scales


def test_hosts_share_what_a_named_model_made(tmp_path: Path, here: Processor) -> None:
    assert here.named
    other = replace(here, host_kernel="6.1", kvm_module="kvm_amd")

    def path(shown: Processor) -> Path:
        shape = Shape("kvm", cpu="qemu64", processor=shown)
        return path_for(tmp_path, {**shape.facts(), **shape.of_host})

    assert path(here) == path(other)
    assert path(replace(here, named=False)) != path(replace(other, named=False))
    assert path(here) != path(replace(here, cpuid=ELSEWHERE.cpuid))


def test_an_upgrade_of_the_host_keeps_saved_sandboxes(here: Processor) -> None:
    """What can be built again is; what users saved is restored while its processor is shown."""
    before = Shape("kvm", processor=replace(here, named=False))
    after = Shape("kvm", processor=replace(here, named=False, host_kernel="6.99"))
    assert before.facts() == after.facts() and before.of_host != after.of_host
    processor.check("saved", before.processor.facts() if before.processor else {}, after.processor)


def test_the_processor_changes_nothing_under_tcg() -> None:
    assert "cpuid_sha256" not in Shape("tcg").facts() and "processor" not in Shape("tcg").facts()


def test_a_saved_microvm_of_another_processor(tmp_path: Path, here: Processor) -> None:
    saved = tmp_path / "saved"
    with saved_vm.writing(saved, FACTS, bytes(16), ELSEWHERE) as directory:
        for name in (saved_vm.MEMORY, saved_vm.DEVICES, saved_vm.DISK):
            (directory / name).write_bytes(b"content")
    with pytest.raises(CheckpointForeign, match="AMD EPYC 7763"):
        saved_vm.load(saved, FACTS, here)
    assert saved_vm.load(saved, FACTS, ELSEWHERE).facts == FACTS
    text = (saved / saved_vm.MANIFEST).read_text(encoding="utf-8")
    broken = text.replace('"processor": {', '"processor": 7, "was": {')
    (saved / saved_vm.MANIFEST).write_text(broken, encoding="utf-8")
    with pytest.raises(CheckpointCorrupt):
        saved_vm.load(saved, FACTS, here)
