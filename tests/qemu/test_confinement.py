"""How far VMMs are confined: what the user chooses, what a host lacks, what records say."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import SandboxError, Unsupported, UsageError
from harness.host import cgroups
from harness.host.cgroup_limits import CONTROLLERS, LimitedGroup, LimitedGroups, Limits
from harness.host.identity import allocate
from harness.host.run import Run
from harness.host.session import open_run, trial_run
from harness.measure import record
from harness.paths import cache_directory
from harness.rig.discovery import discover
from harness.rig.recorder import RigRun
from harness.sandbox.protocol import Sharing, Tier
from harness.sandbox.qemu import QemuSubstrate, jail, requirements, vmm
from harness.sandbox.qemu.confinement import ALL, VARIABLE, Level, Part, chosen
from harness.sandbox.qemu.jail import Jail, Jailer
from harness.sandbox.qemu.sandbox import QemuSandbox
from harness.sandbox.qemu.substrate import QemuTemplate
from tests.measure.factory import run_record, series

whole = pytest.mark.skipif(
    os.geteuid() != 0 or bool({*CONTROLLERS} & {*cgroups.find().unlimited}),
    reason="VMMs are confined wholly by root, where control groups can be written",
)
Choose = Callable[[Level], None]
SMALL = Limits(memory=1 << 28, pids=64, cpus=1.0)


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Choose:
    return lambda level: monkeypatch.setenv(VARIABLE, level)


def _status(sandbox: QemuSandbox) -> dict[str, str]:
    text = Path(f"/proc/{sandbox.vmm.process.pid}/status").read_text(encoding="utf-8")
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def _launch(
    stack: ExitStack, run: Run, template: QemuTemplate, sharing: Sharing = Sharing.MAPPED
) -> QemuSandbox:
    sandbox = QemuSubstrate().launch(
        run, template, Tier.DURABLE_POOL, allocate(run.leases, run.id), sharing
    )
    stack.callback(sandbox.destroy)
    return sandbox


def _groups(run: Run, sandbox: QemuSandbox) -> Sequence[Path]:
    return cgroups.find().groups(f"{cgroups.group_of(run)}/{sandbox.id}")


def test_the_choice_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert chosen() is Level.FULL
    monkeypatch.setenv(VARIABLE, "some")
    with pytest.raises(UsageError, match="full, partial, none"):
        chosen()


@whole
@pytest.mark.parametrize("sharing", [Sharing.MAPPED, Sharing.FORKED])
def test_a_restored_guest_is_confined_and_its_group_goes_with_it(
    template: QemuTemplate, sharing: Sharing
) -> None:
    with open_run() as run, ExitStack() as stack:
        if sharing is Sharing.FORKED:
            if template.accelerator != "tcg":
                pytest.skip("KVM guests cannot be forked")
            template = stack.enter_context(QemuSubstrate().zygote(run, template))
        sandbox = _launch(stack, run, template, sharing)
        sandbox.awaken(60)  # a fork confines itself, before any of its threads runs
        found = _status(sandbox)
        assert int(found["Uid"].split()[0]) >= jail.USERS
        assert (found["Seccomp"], found["NoNewPrivs"]) == ("2", "1")
        assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == 0
        groups = _groups(run, sandbox)
        assert groups
        for group in groups:
            assert (
                str(sandbox.vmm.process.pid)
                in (group / "cgroup.procs").read_text(encoding="utf-8").split()
            )
        assert sandbox.first_exec("word").stdout == b"word\n"
        sandbox.destroy()
        assert not any(group.exists() for group in groups)


def test_nothing_confines_it_when_that_is_chosen(template: QemuTemplate, choose: Choose) -> None:
    choose(Level.NONE)
    with open_run() as run, ExitStack() as stack:
        assert jail.image(run, "tcg").built_from["level"] == "none"
        assert jail.image(run, "tcg").built_from["applied"] == "nothing"
        sandbox = _launch(stack, run, template)
        assert _status(sandbox)["Uid"].split()[0] == str(os.geteuid())
        assert _status(sandbox)["Seccomp"] == "0"
        assert not _groups(run, sandbox)
        sandbox.awaken(60)


def _lacking(monkeypatch: pytest.MonkeyPatch, part: Part) -> None:
    """This host, as if it lacked a part."""

    def refuse(*_: object) -> None:
        raise Unsupported(f"no {part} here")

    place, name = {
        Part.PRIVILEGES: (Jailer, "_build_root"),
        Part.GROUP: (LimitedGroups, "_make_parents"),
    }[part]
    monkeypatch.setattr(place, name, refuse)


@whole
@pytest.mark.parametrize("part", [Part.PRIVILEGES, Part.GROUP])
def test_what_a_host_lacks_is_refused_unless_it_is_accepted(
    template: QemuTemplate, choose: Choose, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    _lacking(monkeypatch, part)
    with open_run() as run, ExitStack() as stack:
        with pytest.raises(Unsupported, match=f"no {part} here") as refused:
            _launch(stack, run, template)
        assert f"{VARIABLE}=partial" in (refused.value.hint or "")
    (line,) = [each for each in requirements.requirements() if "confinement" in each.what]
    assert not line.satisfied
    assert str(part) in line.detail
    choose(Level.PARTIAL)
    (line,) = [each for each in requirements.requirements() if "confinement" in each.what]
    assert line.satisfied
    assert f"not applied: {part}" in line.detail
    with open_run() as run, ExitStack() as stack:
        facts = jail.image(run, "tcg").built_from
        assert (facts["level"], facts["lacking"]) == ("partial", part)
        if template.accelerator == "tcg":  # forks too
            standing = stack.enter_context(QemuSubstrate().zygote(run, template))
            forked = _launch(stack, run, standing, Sharing.FORKED)
            forked.awaken(60)
            assert _status(forked)["Seccomp"] == "2"
        sandbox = _launch(stack, run, template)
        assert _status(sandbox)["Seccomp"] == "2"
        assert (_status(sandbox)["Uid"].split()[0] == "0") is (part is Part.PRIVILEGES)
        assert bool(_groups(run, sandbox)) is (part is not Part.GROUP)
        sandbox.awaken(60)


def test_templates_say_how_their_vmms_are_confined(template: QemuTemplate) -> None:
    (image,) = [each for each in template.images if each.name == "confinement"]
    assert image.built_from["level"] == chosen()


@whole
def test_every_record_of_vmms_says_how_they_were_confined(
    template: QemuTemplate, tmp_path: Path
) -> None:
    """Also where the rig names no images."""
    rig = discover().found["cold-start"]
    with open_run() as run:
        for expected in (["confinement"], []):
            made = RigRun(tmp_path, "quick")
            made.begin()
            if expected:
                confined = jail.jail_for(run, allocate(run.leases, run.id), template.shape)
                assert confined
                confined.remove()
            made.end()
            path = made.write(rig.info, rig.path, [series()], run_record().clock)
            assert [image.name for image in record.load(path).images] == expected


@pytest.fixture
def jailer() -> Iterator[tuple[Run, Jailer]]:
    with trial_run() as run:
        made = Jailer(run, cache_directory(), ALL)
        with contextlib.closing(made):
            yield run, made


def _start(run: Run, made: Jail, name: str) -> vmm.Vmm:
    return vmm.spawn(
        run, name, lambda ends: ("qemu-system-x86_64", "-M", "none", "-display", "none",
                                 "-qmp", f"chardev:q{ends.qmp}",
                                 "-chardev", f"socket,id=q{ends.qmp},fd={ends.qmp}"),
        incoming=False, jail=made,
    )  # fmt: skip


@whole
def test_a_vmm_is_born_in_a_group_of_version_2(jailer: tuple[Run, Jailer]) -> None:
    """Also where version 1 has the controllers, as in a hybrid."""
    run, made = jailer
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    unified = next((Path(line.split()[1]) for line in mounts if line.split()[2] == "cgroup2"), None)
    if unified is None:
        pytest.skip("this host has no version 2")
    group = unified / cgroups.group_of(run) / "born"
    group.mkdir(parents=True)
    identity = allocate(run.leases, run.id)
    confined = made.confine(identity, SMALL, 1 << 20, kvm=False)
    before = confined.group
    path = str(group.relative_to(unified))
    started = _start(run, replace(confined, group=LimitedGroup(path, 2, [group])), "born")
    try:
        started.greeting(30)
        assert (group / "cgroup.procs").read_text(encoding="utf-8").split() == [
            str(started.process.pid)
        ]
    finally:
        started.kill()
        identity.release()
        if before:
            before.remove()
    assert not group.exists()
    with contextlib.suppress(OSError):
        group.parent.rmdir()


@whole
def test_a_vmm_that_cannot_be_confined_says_why_and_leaves_nothing(
    jailer: tuple[Run, Jailer],
) -> None:
    run, made = jailer
    identity = allocate(run.leases, run.id)
    confined = made.confine(identity, SMALL, 1 << 20, kvm=False)
    assert confined.group
    made.program = Path("/bin/false")
    with pytest.raises(SandboxError, match="could not be confined"):
        _start(run, confined, "never")
    identity.release()
    assert not any(each.exists() for each in confined.group.directories)


@whole
def test_only_a_guest_under_kvm_sees_the_device(jailer: tuple[Run, Jailer]) -> None:
    if not jail.KVM.exists():
        pytest.skip("this host has no /dev/kvm")
    run, made = jailer
    for kvm in (True, False):
        identity = allocate(run.leases, run.id)
        started = _start(run, made.confine(identity, SMALL, 1 << 20, kvm), f"kvm-{kvm}")
        try:
            started.greeting(30)
            inside = Path("/proc", str(started.process.pid), "root", "dev/kvm")
            assert inside.exists() is kvm
        finally:
            started.kill()
            identity.release()
