"""Show which substrates and rigs run on this host, and what the others lack.

Substrates that lack the same are shown together; `--all` also shows what is there. It also shows
whether guests of QEMU run under KVM, why, and when that was tried; nothing is booted for it. With
`--again` KVM is tried anew now, which boots a guest.

`--json` prints `{"substrates": {NAME: {"runs": bool, "requirements": [{"what", "satisfied",
"detail", "remedy"}]}}, "rigs": {ID: {"title", "runs": bool, "substrates": [NAME], "runs_on":
[NAME], "by_name": [NAME], "missing_tools": [PROGRAM], "requirements": [as above], "endpoint":
bool}}, "accelerator": {"name", "reason", "tried", "remedy"}}`; a remedy may be null, and TIER in a
remedy stands for a tier. The accelerator, on Linux, is kvm, tcg or null (not known), and `tried`
when KVM was, or null. On FreeBSD `host.requirements.all` lists the kernel's features. A rig runs if
its tools are installed, its own requirements are met, and one of its substrates runs that creates
sandboxes, which noop does not; a rig that creates them itself has no substrates. `by_name`: those
that run here and that the rig measures only with `--substrate`. One with `endpoint` also measures a
service by its address (`--endpoint URL`), for which it needs nothing of all this.
Exit codes: 0 every rig runs here; 69 a rig does not. With `--again`, 64 where
COPPICE_ACCELERATOR is set, and 69 or 77 where /dev/kvm cannot be used.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from harness import paths, strict_json
from harness.errors import PluginError, UsageError
from harness.host import freebsd, kvm_device
from harness.host.local import LocalHost
from harness.host.process import install_command
from harness.host.requirement import Requirement
from harness.rig.discovery import discover, substrates_of
from harness.rig.info import RigInfo
from harness.sandbox.protocol import load, refused, registered
from harness.sandbox.qemu.accelerator_state import state

CONTROL = "noop"
"""Measures the overhead of the harness; runs everywhere, but makes no sandboxes."""
PYTHON = "Python with the packages that a run needs"
HELP = "show what runs on this host, what is missing, and how to install it"
ENDPOINT = "endpoint"
"""The option by which a rig measures a service elsewhere."""
DESCRIPTORS = 240
"""Free file descriptors that sandboxes need at least, and the programs that run them."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--all", action="store_true", help="also show the requirements that are met"
    )
    parser.add_argument(
        "--again", action="store_true", help="try anew whether a guest answers under KVM"
    )


def examine(names: Sequence[str]) -> dict[str, Sequence[Requirement]]:
    """The requirements of each substrate; loading is a requirement that may fail."""
    found: dict[str, Sequence[Requirement]] = {}
    for name in names:
        try:
            found[name] = load(name).requirements()
        except PluginError as error:
            found[name] = [Requirement("its package", False, str(error))]
        except Exception as error:  # another package may fail in any way
            found[name] = [Requirement("its package", False, f"does not load: {error!r}")]
    return found


def report(
    substrates: Mapping[str, Sequence[Requirement]], rigs: Mapping[str, RigInfo]
) -> dict[str, dict[str, Any]]:
    """The report that `--json` prints."""
    runs = {name: all(need.satisfied for need in needs) for name, needs in substrates.items()}
    return {
        "substrates": {
            name: {
                "runs": runs[name],
                "requirements": [dataclasses.asdict(need) for need in needs],
            }
            for name, needs in substrates.items()
        },
        "rigs": {id: _rig(info, runs) for id, info in rigs.items()},
    }


def _rig(info: RigInfo, runs: Mapping[str, bool]) -> dict[str, object]:
    broken: list[Requirement] = []
    suitable: list[str] = []
    named: list[str] = []
    try:
        suitable = [substrate.name for substrate in substrates_of(info)]
        named = [substrate.name for substrate in substrates_of(info, list(runs))]
    except PluginError as error:
        broken = [Requirement("its choice of substrates", False, str(error))]
    runs_on = [name for name in suitable if runs.get(name)]
    missing = [tool for tool in info.tools if shutil.which(tool) is None]
    try:
        needs = [*broken, *info.requirements()]
    except Exception as error:  # another package may fail in any way
        needs = [Requirement("its own requirements", False, f"cannot be listed: {error!r}")]
    has_sandboxes = bool(set(runs_on) - {CONTROL}) or info.wants is None
    return {
        "title": info.title,
        "runs": has_sandboxes and not missing and all(need.satisfied for need in needs),
        "substrates": suitable,
        "runs_on": runs_on,
        "by_name": [name for name in named if name not in suitable and runs.get(name)],
        "missing_tools": missing,
        "requirements": [dataclasses.asdict(need) for need in needs],
        "endpoint": ENDPOINT in info.options,
    }


def main_remote(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Examine the host that COPPICE_HOST names; only through its shell if it lacks Python."""
    from harness.errors import MissingTool
    from harness.host.session import open_run
    from harness.remote import remote_run
    from harness.remote.ssh import open_ssh

    try:
        return remote_run.run_remotely(remote_run.address(), argv, None)
    except MissingTool as error:
        needs = [Requirement(PYTHON, False, str(error.args[0]), error.hint)]
        with open_run() as run, open_ssh(run, remote_run.address()) as host:
            if freebsd.is_freebsd(host):
                needs += freebsd.all_requirements(host, os.environ.get("COPPICE_POOL"))
        if options.json:
            found = {"host": [dataclasses.asdict(need) for need in needs]}
            print(strict_json.dumps(found, ascii=True, indent=1))
        else:
            print(f"{remote_run.address()}: runs cannot start there yet")
            _print_needs([dataclasses.asdict(need) for need in needs], True)
        return 69


def _try_again() -> None:
    """Try KVM anew, with the image of the qemu substrate; other images are tried when used."""
    from harness.guest.image import build
    from harness.host.session import trial_run
    from harness.sandbox.qemu import accelerator, decisions, hardware_choice

    if hardware_choice.accelerator():
        raise UsageError(
            f"{hardware_choice.ACCELERATOR} is set: nothing is tried",
            hint=f"unset {hardware_choice.ACCELERATOR}",
        )
    if refused := kvm_device.refusal(kvm_device.KVM):
        raise refused
    cache = paths.cache_directory()
    print("coppice: trying KVM, for at most two minutes", file=sys.stderr)
    decisions.forget(cache)
    with trial_run() as run:
        accelerator.choose(run, cache, build(cache), again=True)


def main(options: argparse.Namespace) -> int:
    if options.again:
        _try_again()
    discovered = discover()
    rigs = {id: rig.info for id, rig in discovered.found.items()}
    found = report(examine(sorted(registered())), rigs)
    broken = {**refused(), **discovered.broken}
    if broken:
        found["broken"] = {where: {"why": why} for where, why in broken.items()}
    if sys.platform.startswith("freebsd"):
        needs = freebsd.all_requirements(LocalHost(), os.environ.get("COPPICE_POOL"))
        found["host"] = {"requirements": {"all": [dataclasses.asdict(need) for need in needs]}}
    else:
        found["accelerator"] = dict(state(paths.cache_directory()).facts())
    if options.json:
        print(strict_json.dumps(found, ascii=True, indent=1))
    else:
        _print(found, options.all)
    everything = all(rig["runs"] for rig in found["rigs"].values())
    return 0 if everything and not broken else 69


def _print(found: Mapping[str, Mapping[str, Any]], everything: bool) -> None:
    """What runs here first; then what does not, together where the same is missing."""
    if "host" in found:
        print("This FreeBSD")
        _print_needs(found["host"]["requirements"]["all"], True)
    print("Substrates")
    lacking: dict[object, list[str]] = {}
    for name, substrate in found["substrates"].items():
        needs = substrate["requirements"]
        if substrate["runs"]:
            print(f"  {name}: runs here")
            _print_needs(needs, everything)
        else:
            assert isinstance(needs, list)
            missing = tuple(
                (need["what"], need["detail"]) for need in needs if not need["satisfied"]
            )
            lacking.setdefault(missing, []).append(name)
    for names in lacking.values():
        print(f"  {', '.join(names)}: {'do' if len(names) > 1 else 'does'} not run here")
        # What is there differs between those shown together.
        alone = len(names) == 1
        _print_needs(found["substrates"][names[0]]["requirements"], everything or alone)
    if "accelerator" in found:
        _print_accelerator(found["accelerator"])
    print("Rigs")
    for where, broken in found.get("broken", {}).items():
        print(f"  {where}: {broken['why']}")
    for id, rig in sorted(found["rigs"].items(), key=lambda rig: not rig[1]["runs"]):
        runs_on, tools = rig["runs_on"], rig["missing_tools"]
        assert isinstance(runs_on, list) and isinstance(tools, list)
        verdict = "runs here" if rig["runs"] else "does not run here"
        if rig["endpoint"] and not rig["runs"]:
            verdict += f", but measures a service (--{ENDPOINT})"
        own = "none" if rig["substrates"] else "its own"
        print(f"  {id} ({rig['title']}): {verdict}; substrates: {', '.join(runs_on) or own}")
        if by_name := rig["by_name"]:
            print(f"    with --substrate NAME also {', '.join(by_name)}")
        _print_needs(rig["requirements"], everything or not rig["runs"])
        for tool in tools:
            print(f"    missing {tool}\n            {install_command(tool)}")


def _print_accelerator(known: Mapping[str, Any]) -> None:
    """Emulation is reported even where all is well: its times are not those of hardware."""
    names = {"kvm": "KVM", "tcg": "TCG: emulated"}
    print("Guests of QEMU")
    print(f"  {names.get(known['name'], 'not known')}: {known['reason']}")
    if known["remedy"]:
        print(f"    {known['remedy']}")


def _print_needs(needs: object, everything: bool) -> None:
    """The requirements that are not met, or all of them."""
    assert isinstance(needs, list)
    for need in needs:
        if need["satisfied"] and not everything:
            continue
        state = "ok     " if need["satisfied"] else "missing"
        print(f"    {state} {need['what']}: {need['detail']}")
        if not need["satisfied"] and need["remedy"]:
            print(f"            {need['remedy']}")
