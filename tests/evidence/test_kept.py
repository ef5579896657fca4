"""What failed tests and rigs keep: real failures, each in a pytest session of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.host import evidence
from harness.host.evidence import FILE_LIMIT
from harness.paths import failures_directory
from harness.rig.evidence import ABOUT, RUN_LIMIT, RUNS
from harness.sandbox.protocol import load
from tests.host.processes import ROOT

GARBAGE_KERNEL = """
import contextlib
from dataclasses import replace
from harness.host.identity import allocate
from harness.paths import cache_directory
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import QemuSubstrate

def test_garbage(run, tmp_path):
    qemu = QemuSubstrate()
    template = qemu.prepare(run, cache_directory(), Tier.FULL)
    (tmp_path / "kernel").write_bytes(b"not a kernel" * 1000)
    image = replace(template.image, kernel=tmp_path / "kernel")
    identity = allocate(run.leases, run.id)
    # The launch fails, or the awakening, as the VMM dies before or after its greeting.
    sandbox = qemu.launch(run, replace(template, image=image), Tier.FULL, identity)
    with contextlib.ExitStack() as undo:
        undo.callback(sandbox.destroy)
        sandbox.awaken(60)
"""
PANIC = """
import contextlib, socket, time
from harness.host.identity import allocate
from harness.paths import cache_directory
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import QemuSubstrate

def test_panic(run, monkeypatch):
    qemu = QemuSubstrate()
    template = qemu.prepare(run, cache_directory(), Tier.FULL)
    # A user cannot take the agent away.
    monkeypatch.setattr("harness.sandbox.qemu.kernel_arguments.RESERVED", ())
    words = "console=ttyS0 loglevel=1 panic=0 rdinit=/none"
    monkeypatch.setenv("COPPICE_KERNEL_ARGUMENTS", words)
    sandbox = qemu.launch(run, template, Tier.FULL, allocate(run.leases, run.id))
    seen, deadline = b"", time.monotonic() + 120
    while b"Kernel panic" not in seen and time.monotonic() < deadline:
        time.sleep(0.1)
        with contextlib.suppress(BlockingIOError):
            seen = sandbox.vmm.bell.recv(1 << 16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    sandbox.destroy()
    assert not "panic"
"""
NO_AGENT = """
import shutil
from dataclasses import replace
from harness.host.identity import allocate
from harness.paths import cache_directory
from harness.sandbox.oci import OciSubstrate
from harness.sandbox.oci.config import AGENT
from harness.sandbox.protocol import Tier

def test_no_agent(run):
    oci = OciSubstrate()
    template = oci.prepare(run, cache_directory(), Tier.FULL)
    lower = run.directory / "lower"
    shutil.copytree(template.lower, lower, symlinks=True)
    (lower / AGENT.lstrip("/")).unlink()
    oci.launch(run, replace(template, lower=lower), Tier.FULL, allocate(run.leases, run.id))
"""
GATEWAY = """
from harness.gateway.gateway_process import running_gateway

def test_gateway(run):
    with running_gateway(run, "--substrate", "noop", "--verbose") as gateway:
        status, _ = gateway.request("GET", "/sandboxes")
        assert status == 418, f"its key is {gateway.key}"
"""
LARGE = """
def test_large(run):
    (run.directory / "large.log").write_bytes(b"a" * (3 << 20) + b"the end")
    for number in range(70):
        (run.directory / f"many-{number}.log").write_bytes(b"b" * (1 << 20))
    assert not "large"
"""


@pytest.fixture
def failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the sessions of a test keep what explains their failures, and have their runs."""
    monkeypatch.setenv("COPPICE_FAILURES", str(tmp_path / "failures"))
    monkeypatch.setenv("COPPICE_RUNTIME", str(tmp_path / "runtime"))
    return tmp_path / "failures"


def session(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    """One pytest session with one file of tests, elsewhere."""
    file = tmp_path / "session" / "test_it.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        cwd=file.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def kept(done: subprocess.CompletedProcess[str], failures: Path) -> Path:
    """The directory of the only test that failed, which the session has named."""
    named = re.findall(r"^kept: (.+)$", done.stdout, re.M)
    assert len(named) == 1, done.stdout
    assert Path(named[0]).parent == failures
    (directory,) = Path(named[0]).iterdir()
    return directory


def fits(substrate: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not all(need.satisfied for need in load(substrate).requirements()),
        reason=f"{substrate} cannot run here: coppice doctor",
    )


@fits("qemu")
def test_a_vmm_with_garbage_for_a_kernel(failures: Path, tmp_path: Path) -> None:
    done = session(tmp_path, GARBAGE_KERNEL)
    assert done.returncode == 1, done.stdout
    directory = kept(done, failures)
    about = (directory / ABOUT).read_text(encoding="utf-8")
    assert "test_garbage" in about and "GuestDied" in about
    (log,) = directory.glob("coppice-*.log")
    assert "qemu" in log.read_text(encoding="utf-8") and "before it was told to" in log.read_text(
        encoding="utf-8"
    )
    assert list((tmp_path / "runtime").glob("*/*.log")) == []


@fits("qemu")
def test_a_guest_that_panics_on_its_console(failures: Path, tmp_path: Path) -> None:
    done = session(tmp_path, PANIC)
    assert done.returncode == 1, done.stdout
    (serial,) = kept(done, failures).glob("coppice-*.serial")
    assert "Kernel panic" in serial.read_text(encoding="utf-8")


@fits("oci-overlay")
def test_a_container_without_its_agent(failures: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)  # a container's root is not this host's
    done = session(tmp_path, NO_AGENT)
    assert done.returncode == 1, done.stdout
    (log,) = kept(done, failures).glob("oci-*.log")
    assert "no such file or directory" in log.read_text(encoding="utf-8")


def test_a_gateways_log_without_its_keys(failures: Path, tmp_path: Path) -> None:
    done = session(tmp_path, GATEWAY)
    assert "its key is e2b_" in done.stdout, done.stdout
    directory = kept(done, failures)
    assert "its key is (hidden)" in (directory / ABOUT).read_text(encoding="utf-8")
    (log,) = directory.glob("gateway-*.log")
    assert '"route": "list"' in log.read_text(encoding="utf-8")
    key = re.findall(r"e2b_\w{20,}", done.stdout)[0]
    assert not any(key in one.read_text(encoding="utf-8") for one in directory.iterdir())


def test_it_is_bounded(failures: Path, tmp_path: Path) -> None:
    done = session(tmp_path, LARGE)
    directory = kept(done, failures)
    assert f"a run leaves {RUN_LIMIT >> 20} MiB at most" in done.stdout
    sizes = {one.name: one.stat().st_size for one in directory.iterdir()}
    assert sum(sizes.values()) <= RUN_LIMIT and len(sizes) > 50
    assert sizes["large.log"] == FILE_LIMIT
    assert (directory / "large.log").read_bytes().endswith(b"the end")


def test_the_oldest_runs_go(failures: Path, tmp_path: Path) -> None:
    for number in range(RUNS + 5):
        (failures / f"202601{number + 1:02}T000000Z-0123abcd" / "01-test").mkdir(parents=True)
    (failures / "mine").mkdir()
    done = session(tmp_path, "def test_it(run):\n    assert 0")
    kept(done, failures)
    left = sorted(one.name for one in failures.iterdir())
    assert "mine" in left and len(left) == RUNS + 1
    assert left[0].startswith("20260107") and "20260125T000000Z-0123abcd" in left


@pytest.mark.parametrize(
    "text",
    [
        "def test_it(run):\n    (run.directory / 'a.log').write_text('a')",
        "def test_it():\n    assert 0",
        "import pytest\ndef test_it(run):\n    pytest.skip('not here')",
    ],
    ids=["passes", "of-another-project", "skips"],
)
def test_otherwise_nothing_is_kept(text: str, failures: Path, tmp_path: Path) -> None:
    done = session(tmp_path, text)
    assert "kept" not in done.stdout and not failures.exists(), done.stdout


def test_a_record_with_failed_samples_keeps_too(failures: Path, tmp_path: Path) -> None:
    """The rig's test passes: what failed is a part of what it measured."""
    done = session(tmp_path, "def test_it(rig_run):\n    rig_run.failed = True")
    assert done.returncode == 0, done.stdout
    assert "samples of the record failed" in (kept(done, failures) / ABOUT).read_text(
        encoding="utf-8"
    )


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("COPPICE_FAILURES", "COPPICE_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert failures_directory() == tmp_path / "coppice" / "failures"
    monkeypatch.setenv("COPPICE_STATE", str(tmp_path / "state"))
    assert failures_directory() == tmp_path / "state" / "failures"
    monkeypatch.setenv("COPPICE_FAILURES", str(tmp_path / "mine"))
    assert failures_directory() == tmp_path / "mine"


def test_each_failed_test_has_its_own_logs_alone(failures: Path, tmp_path: Path) -> None:
    text = """
from harness.sandbox.shared_kernel import Log
import os
def leave(run, name):
    log = Log(run, name)
    os.write(log.descriptor, name.encode())
    log.close()
def test_first(run):
    leave(run, "first")
def test_second(run):
    leave(run, "second")
    leave(run, "second")
    assert 0
def test_third(run):
    leave(run, "third")
    assert 0
"""
    done = session(tmp_path, text)
    (run,) = failures.iterdir()
    files = {one.name: sorted(file.name for file in one.iterdir()) for one in run.iterdir()}
    assert set(files) == {"01-test_second", "02-test_third"}, done.stdout
    logs = {name: [one for one in found if one.endswith(".log")] for name, found in files.items()}
    assert "second.log" in logs["01-test_second"] and "first.log" not in logs["01-test_second"]
    assert "third.log" in logs["02-test_third"] and "second.log" not in logs["02-test_third"]


def test_what_a_gateway_hands_over_is_what_ended_by_itself(tmp_path: Path) -> None:
    """A gateway leaves logs for its owner; of sandboxes that were told to end it leaves none."""
    code = """
import sys
from pathlib import Path
from harness.host import evidence
evidence.leave_where_asked({evidence.VARIABLE: sys.argv[1]})
for name, code in (("killed", None), ("died", 1)):
    log = Path(sys.argv[2], f"{name}.log")
    log.write_text(name)
    evidence.drop(log, evidence.ended_by_itself(code))
    assert not log.exists()
"""
    ended = tmp_path / "ended"
    subprocess.run([sys.executable, "-c", code, ended, tmp_path], check=True, cwd=ROOT)
    assert [one.name for one in ended.iterdir()] == ["died.log"]
    assert "exit code 1" in (ended / "died.log").read_text(encoding="utf-8")


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "HELD_LIMIT", 10 * evidence.BLOCK)
    with evidence.collect() as held:
        for number in range(100):
            evidence.add(str(number), b"small")
        assert [name for name, _ in held.take()] == [str(number) for number in range(90, 100)]
        evidence.add("large", b"a" * (5 * FILE_LIMIT // 4))
    assert not evidence.wanted() or held.take() == []
