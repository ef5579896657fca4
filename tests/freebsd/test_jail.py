"""The jail drivers on a host written from documentation (documented.py): NOT recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import DiskFull, GuestDied, NameTaken, Unsupported, UsageError
from harness.host.run import Run
from harness.network.policy import Policy
from harness.sandbox.jail.substrate import JailSubstrate
from harness.sandbox.protocol import Tier, load, registered
from tests.freebsd.documented import FAILS, MARK, NAME, host, identity, run_in
from tests.freebsd.hosts import Answer, Documented

CACHE = Path("/var/cache/coppice")
ID = f"coppice-{MARK}-000000000005"
SHAPES = [(False, False), (True, False), (False, True), (True, True)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.delenv("COPPICE_POOL", raising=False)
    opened = run_in(tmp_path)
    with opened.at_end:
        yield opened


def substrate(there: Documented, network: bool = False, zfs: bool = False) -> JailSubstrate:
    return JailSubstrate(network=network, zfs=zfs, host=lambda run: there)


def test_the_four_shapes_are_registered_under_their_published_names() -> None:
    names = ["jail-raw", "jail-vnet-pf", "jail-zfs-clone", "jail-vnet-zfs-clone"]
    assert set(names) <= set(registered())
    assert [load(name).name for name in names] == names
    assert not any(load(name).own_kernel for name in names)


@pytest.mark.parametrize(("network", "zfs"), SHAPES)
def test_a_jail_is_removed_in_reverse_order(network: bool, zfs: bool, run: Run) -> None:
    there = host()
    jails = substrate(there, network, zfs)
    template = jails.prepare(run, CACHE, Tier.FULL)
    begun = len(there.log)
    jail = jails.launch(run, template, Tier.FULL, identity())
    root = f"/var/db/coppice/zroot/coppice/{ID}" if zfs else f"{there.directory}/{ID}"
    stack = "vnet vnet.interface=epair0b" if network else "ip4=disable ip6=disable"
    made = [
        rf"zfs clone zroot/coppice/template\.\w+@base \S+{ID}$" if zfs else "sh -c mkdir",
        f"mount -t devfs -o ruleset=4 devfs {root}/dev$",
        *([f"ifconfig epair create description {ID} group coppice up$",
           rf"pfctl -a coppice/{ID} -f -", "ifconfig bridge0 addm epair0a"] if network else []),
        f"jail -c name={ID} path={root} host.hostname=sandbox-000000000005 persist .* {stack}$",
        *([f"jexec {ID} /bin/ifconfig eth0 inet 10.77.0.5/16 up"] if network else []),
        f"rctl -a jail:{ID}:memoryuse:deny=256M$",
        f"rctl -a jail:{ID}:maxproc:deny=128$",
        f"start jexec {ID} /sbin/init",
    ]  # fmt: skip
    log = there.log[begun:]
    _in_order(log, made)
    jail.awaken(10)
    assert jail.first_exec("word").stdout == b"word\n"
    jail.touch(1)
    begun = len(there.log)
    jail.destroy()
    unmade = [
        f"rctl -r jail:{ID}$",
        f"jail -r {ID}$",
        *([rf"pfctl -a coppice/{ID} -F all", "ifconfig epair0a destroy"] if network else []),
        f"umount -f {root}/dev$",
        f"zfs destroy -f zroot/coppice/{ID}$" if zfs else f"rm -rf {root}$",
    ]
    _in_order(there.log[begun:], unmade)
    count = len(there.log)
    jail.destroy()
    assert len(there.log) == count


def _in_order(log: list[str], patterns: list[str]) -> None:
    at = 0
    for pattern in patterns:
        found = next((n for n in range(at, len(log)) if re.match(pattern, log[n])), None)
        assert found is not None, f"{pattern!r} does not come next:\n" + "\n".join(log[at:])
        at = found + 1


def test_a_pooled_jail_is_frozen_by_a_signal(run: Run) -> None:
    there = host()
    jails = substrate(there)
    template = jails.prepare(run, CACHE, Tier.PREWARM_POOL)
    jail = jails.launch(run, template, Tier.PREWARM_POOL, identity())
    assert there.log[-1] == "signal SIGSTOP"
    jail.awaken(10)
    assert there.log[-1] == "signal SIGCONT" and jail.resumed_at() > 0
    jail.destroy()


def test_a_template_is_made_once_on_a_pool(run: Run) -> None:
    there = host((r"zfs list -H -t snapshot \S+@base", Answer("there\n")))
    substrate(there, zfs=True).prepare(run, CACHE, Tier.FULL)
    assert not any(line.startswith(("zfs create", "zfs snapshot")) for line in there.log)


def test_without_accounting_jails_have_no_limits_and_the_record_has_a_note(run: Run) -> None:
    there = host(("sysctl -n kern.racct.enable", Answer("0\n")))
    jails = substrate(there)
    template = jails.prepare(run, CACHE, Tier.FULL)
    assert template.images[0].built_from["limits"] == "none"
    jails.launch(run, template, Tier.FULL, identity()).destroy()
    assert not any("rctl" in line for line in there.log)


# Bad input.


def test_a_jail_of_the_same_name_is_left_alone(run: Run) -> None:
    said = f'jail: jail "{ID}" already exists\n'
    there = host((rf"jail -c name={NAME} .*", Answer("", 1, said)))
    jails = substrate(there, network=True, zfs=True)
    template = jails.prepare(run, CACHE, Tier.FULL)
    begun = len(there.log)
    with pytest.raises(NameTaken, match="exists already and was left alone"):
        jails.launch(run, template, Tier.FULL, identity())
    log = there.log[begun:]
    assert not any(line.startswith("jail -r") for line in log)
    _in_order(log, ["jail -c", "ifconfig epair0a destroy", "umount -f", "zfs destroy"])


def test_without_zfs_only_the_clone_shapes_are_unsupported(run: Run) -> None:
    there = host(("zpool list -H -o name", FAILS))
    for network in (False, True):
        with pytest.raises(Unsupported, match="a ZFS pool; no pool") as refused:
            substrate(there, network, zfs=True).prepare(run, CACHE, Tier.FULL)
        assert "zpool create" in (refused.value.hint or "") and refused.value.exit_code == 69
    substrate(there).prepare(run, CACHE, Tier.FULL)


def test_a_named_pool_that_does_not_exist(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPPICE_POOL", "tank")
    with pytest.raises(Unsupported, match="no pool is named tank; existing pools: zroot"):
        substrate(host(), zfs=True).prepare(run, CACHE, Tier.FULL)


def test_full_pools(run: Run) -> None:
    there = host((r"zfs get -H -p -o value available \S+", Answer("1048576\n")))
    with pytest.raises(Unsupported, match=r"free space in it; 0\.0 GiB free"):
        substrate(there, zfs=True).prepare(run, CACHE, Tier.FULL)
    full = Answer("", 1, "cannot create 'zroot/coppice/x': out of space\n")
    there = host((r"zfs clone .*", full))
    jails = substrate(there, zfs=True)
    template = jails.prepare(run, CACHE, Tier.FULL)
    with pytest.raises(DiskFull):
        jails.launch(run, template, Tier.FULL, identity())
    half = host((r"zfs snapshot .*", full))
    with pytest.raises(DiskFull):
        substrate(half, zfs=True).prepare(run, CACHE, Tier.FULL)
    assert half.log[-1].startswith("zfs destroy -r zroot/coppice/template.")


def test_without_pf_or_vimage_the_networked_shapes_are_unsupported(run: Run) -> None:
    for command, word in (
        ("kldstat -q -m pf", "kldload pf"),
        ("sysctl -n kern.features.vimage", "VIMAGE"),
        ("sysctl -n net.link.bridge.pfil_member", "sysctl net.link.bridge.pfil_member=1"),
    ):
        there = host((command, FAILS))
        with pytest.raises(Unsupported) as refused:
            substrate(there, network=True).prepare(run, CACHE, Tier.FULL)
        assert word in (refused.value.hint or "")
        substrate(there).prepare(run, CACHE, Tier.FULL)


def test_without_devfs_rules_no_jail_is_made(run: Run) -> None:
    there = host(("devfs rule -s 4 show", Answer("")))
    with pytest.raises(Unsupported, match="a jail would see all devices"):
        substrate(there).prepare(run, CACHE, Tier.FULL)


def test_an_agent_that_does_not_start_leaves_no_jail(run: Run) -> None:
    there = host(starts=[(rf"jexec {NAME} /sbin/init", 1)])
    jails = substrate(there)
    template = jails.prepare(run, CACHE, Tier.FULL)
    with pytest.raises(GuestDied, match="did not start: vm exit"):
        jails.launch(run, template, Tier.FULL, identity())
    assert there.at(f"jail -r {ID}") < there.at(r"umount -f")


def test_a_jail_takes_no_tap_and_cannot_be_forked(run: Run) -> None:
    there = host()
    jails = substrate(there)
    template = jails.prepare(run, CACHE, Tier.FULL)
    with pytest.raises(UsageError):
        jails.launch(run, template, Tier.FULL, identity(), tap=3)
    with pytest.raises(Unsupported):
        jails.zygote(run, template)


def test_a_jails_policy_is_loaded_at_launch(run: Run) -> None:
    there = host()
    jails = JailSubstrate(network=True, policy=Policy.of(["192.0.2.1"]), host=lambda run: there)
    template = jails.prepare(run, CACHE, Tier.FULL)
    jails.launch(run, template, Tier.FULL, identity()).destroy()
    loaded = there.stdins[f"pfctl -a coppice/{ID} -f -"]
    assert "table <own>" in loaded  # the last load allows nothing
    assert "192.0.2.1" not in loaded
