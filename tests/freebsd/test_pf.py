"""pf behind cubenet's protocol, on a host written from documentation: NOT recorded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.errors import (
    CommandFailed,
    MissingPrivilege,
    NameTaken,
    NotEnoughMemory,
    SandboxGone,
    Unsupported,
)
from harness.host.run import Run
from harness.network import pf as pf_module
from harness.network.pf import Pf, egress_interface
from harness.network.pf_cubenet import open_pf_cubenet
from harness.network.pf_rules import ruleset, tightens
from harness.network.policy import Policy
from harness.network.protocol import Member, PolicyEngine
from harness.procedures import packet_filters
from tests.freebsd.documented import FAILS, MARK, host, identity, run_in
from tests.freebsd.hosts import Answer, Documented

WHO = identity()
MEMBER = Member(WHO.id, 1, WHO.mac_bytes, WHO.address, WHO.address6)
ANCHOR = f"coppice/coppice-{MARK}-000000000005"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_in(tmp_path)


def engine(there: Documented, run: Run) -> Pf:
    return Pf(there, run, lambda number: f"epair{number}a")


def test_the_default_denies_and_every_rule_names_the_interface() -> None:
    made = ruleset(MEMBER, "epair1a", Policy())
    rules = made.rules.splitlines()
    assert all(" quick on epair1a " in rule for rule in rules)
    assert [rule for rule in rules if rule.startswith("pass in")] == []
    assert rules[-2].startswith("block drop in quick on epair1a all")
    assert made.tables == {"own": ["10.77.0.5", "fd77:c0bb:1ce::a4d:5"]}
    assert all(rule.split()[6] in ("inet", "inet6") and "! <own>" in rule for rule in rules[:2])


def test_precedence_of_allow_deny_private_ranges_and_default() -> None:
    policy = Policy.of(
        ["10.1.0.0/16", "192.0.2.7 tcp/443", "192.0.2.8 tcp/443", "2001:db8::/32"],
        ["198.51.100.0/24"],
        ["10.77.0.1"],
        "allow",
    )
    made = ruleset(MEMBER, "epair1a", policy)
    order = ["<dns> port 53", "to <allow> flags", "<allow.tcp.443> port 443", "to <deny>",
             "to <private>", "to any flags", "all label"]  # fmt: skip
    at = [next(n for n, rule in enumerate(made.rules.splitlines()) if one in rule) for one in order]
    assert at == sorted(at)
    assert made.tables["allow"] == ["10.1.0.0/16", "2001:db8::/32"]
    assert made.tables["allow.tcp.443"] == ["192.0.2.7", "192.0.2.8"]
    assert "10.0.0.0/8" in made.tables["private"]
    assert "table <deny> persist { 198.51.100.0/24 }" in made.text()
    assert all(len(name) < 32 for name in made.tables), "pf's own limit"


def test_a_change_of_addresses_is_one_replacement_of_one_table(run: Run) -> None:
    there = host()
    pf = engine(there, run)
    pf.admit(MEMBER, Policy.of(["192.0.2.1"]))
    begun = len(there.log)
    change = pf.apply(WHO.id, Policy.of(["192.0.2.1", "192.0.2.2"]))
    words = f"pfctl -a {ANCHOR} -t allow -T replace -f -"
    assert there.log[begun:] == [words], "allowing more kills no state"
    assert there.stdins[words] == "192.0.2.1\n192.0.2.2\n"
    assert (change.added, change.removed, change.cuts_established) == (1, 0, True)


def test_a_stricter_policy_kills_states_after_the_change(run: Run) -> None:
    there = host()
    pf = engine(there, run)
    pf.admit(MEMBER, Policy.of(["192.0.2.1", "192.0.2.2"]))
    begun = len(there.log)
    change = pf.apply(WHO.id, Policy.of(["192.0.2.1"]))
    assert there.log[begun:] == [
        f"pfctl -a {ANCHOR} -t allow -T replace -f -",
        "pfctl -k 10.77.0.5",
        "pfctl -k fd77:c0bb:1ce::a4d:5",
    ]
    assert (change.added, change.removed) == (0, 1)


def test_any_other_change_loads_the_anchor_again(run: Run) -> None:
    there = host()
    pf = engine(there, run)
    pf.admit(MEMBER, Policy.of(["192.0.2.1"]))
    begun = len(there.log)
    pf.apply(WHO.id, Policy.of(["192.0.2.1", "192.0.2.1 tcp/80", "192.0.2.2 tcp/81"]))
    # New rules start at zero: the counters of the old ones are read before.
    assert there.log[begun : begun + 2] == [
        f"pfctl -a {ANCHOR} -s labels",
        f"pfctl -a {ANCHOR} -f -",
    ]
    pf.apply(WHO.id, Policy.of(["192.0.2.1", "192.0.2.1 tcp/80", "192.0.2.2 tcp/81"]))
    assert len(there.log) == begun + 2, "an unchanged policy runs no command"


@pytest.mark.parametrize(
    ("before", "after", "tighter"),
    [
        (Policy(), Policy.of(["192.0.2.1"]), False),
        (Policy.of(["192.0.2.1"]), Policy(), True),
        (Policy.of(["192.0.2.1"]), Policy.of(["192.0.2.1 tcp/80"]), True),
        (Policy.of(dns=["192.0.2.1"]), Policy(), True),
        (Policy.of(default="allow"), Policy(), True),
        (Policy.of(default="allow"), Policy.of(deny=["192.0.2.1"], default="allow"), True),
        (Policy(), Policy.of(default="allow"), False),
    ],
)
def test_tightens(before: Policy, after: Policy, tighter: bool) -> None:
    assert tightens(before, after) == tighter


def test_expelling_denies_first(run: Run) -> None:
    there = host()
    pf = engine(there, run)
    pf.admit(MEMBER, Policy.of(["192.0.2.1"]))
    begun = len(there.log)
    pf.expel(WHO.id)
    assert there.log[begun:] == [
        f"pfctl -a {ANCHOR} -f -", "pfctl -k 10.77.0.5", "pfctl -k fd77:c0bb:1ce::a4d:5",
        f"pfctl -a {ANCHOR} -F all",
    ]  # fmt: skip
    for act in (lambda: pf.expel(WHO.id), lambda: pf.apply(WHO.id, Policy())):
        with pytest.raises(SandboxGone):
            act()


def test_counters_come_from_labels(run: Run) -> None:
    labels = (
        "forged 30 3 180 3 180 0 0 0\nforged 1 0 0 0 0 0 0 0\nsent 27 25 2000 20 1500 5 500 2\n"
        "denied 2 2 120 2 120 0 0 0\nanswered 9 8 600 4 300 4 300 1\n"
    )
    there = host((rf"pfctl -a {ANCHOR} -s labels", Answer(labels)))
    pf = engine(there, run)
    pf.admit(MEMBER, Policy())
    found = pf.counters()[WHO.id]
    assert (found.sent, found.sent_bytes, found.denied, found.spoofed) == (26, 1920, 2, 3)


def test_counters_survive_new_rules(run: Run) -> None:
    labels = "sent 27 25 2000 20 1500 5 500 2\ndenied 2 2 120 2 120 0 0 0\n"
    there = host((rf"pfctl -a {ANCHOR} -s labels", Answer(labels)))
    pf = engine(there, run)
    pf.admit(MEMBER, Policy.of(["192.0.2.1"]))
    pf.apply(WHO.id, Policy.of(["192.0.2.1", "192.0.2.2 tcp/80"]))
    assert pf.counters()[WHO.id].denied == 4, "the sum of the old and the new rules' counters"
    pf.expel(WHO.id)
    pf.admit(MEMBER, Policy())
    assert pf.counters()[WHO.id].denied == 2, "a new sandbox of the same name starts at zero"


def test_pf_is_a_policy_engine(run: Run) -> None:
    pf: PolicyEngine = engine(host(), run)
    pf.admit(MEMBER, Policy())
    pf.close()


def test_filters_without_a_network_have_valid_interface_names(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = host()
    monkeypatch.setattr(packet_filters, "FREEBSD", True)
    monkeypatch.setattr(packet_filters, "LocalHost", lambda run: there)
    with packet_filters.packet_filter(run, "a-long-name-of-a-filter") as filter:
        member = Member(WHO.id, 12345, WHO.mac_bytes, WHO.address, WHO.address6)
        filter.engine.admit(member, Policy())
        loaded = there.stdins[f"pfctl -a {ANCHOR} -f -"]
    nics = set(re.findall(r" on (\S+)", loaded))
    assert nics and all(len(nic) < 16 for nic in nics), "pf's limit for names"


# Bad input.


@pytest.mark.parametrize("what", ["rules", "Tables"])
def test_a_foreign_anchor_is_never_touched(what: str, run: Run) -> None:
    there = host((rf"pfctl -a {ANCHOR} -s {what}", Answer("pass all\n")))
    with pytest.raises(NameTaken, match="of another network, which was left alone"):
        engine(there, run).admit(MEMBER, Policy())
    assert not any("-f" in line or "-F" in line for line in there.log)


def test_a_kernel_without_pf_and_one_with_it_off(run: Run) -> None:
    for answer, hint in (
        (("kldstat -q -m pf", FAILS), "kldload pf && pfctl -e"),
        (("pfctl -s info", Answer("Status: Disabled\n")), "pfctl -e"),
    ):
        with pytest.raises(Unsupported) as refused:
            engine(host(answer), run)
        assert refused.value.hint == hint


def test_main_rules_without_our_anchor_are_not_changed(run: Run) -> None:
    there = host(("pfctl -s rules", Answer("block drop all\n")))
    with pytest.raises(Unsupported, match="missing from the main rules") as refused:
        engine(there, run)
    assert 'anchor "coppice/*"' in (refused.value.hint or "")
    assert not any(" -f " in line for line in there.log)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("pfctl: /dev/pf: Operation not permitted", MissingPrivilege),
        ("pfctl: /dev/pf: No such file or directory", Unsupported),
        ("pfctl: DIOCXBEGIN: Cannot allocate memory", NotEnoughMemory),
    ],
)
def test_refusals_by_pf_are_distinguished(said: str, error: type[Exception], run: Run) -> None:
    there = host((rf"pfctl -a {ANCHOR} -f -", Answer("", 1, said)))
    pf = engine(there, run)
    with pytest.raises(error):
        pf.admit(MEMBER, Policy())
    assert pf.counters() == {}


BUSY = Answer("", 1, "pfctl: DIOCADDRULENV: Device busy")


def test_a_load_is_repeated_when_pf_is_busy(run: Run) -> None:
    answers = iter([BUSY, BUSY, Answer()])
    there = host((rf"pfctl -a {ANCHOR} -f -", lambda found: next(answers)))
    engine(there, run).admit(MEMBER, Policy())
    assert there.log[-3:] == [f"pfctl -a {ANCHOR} -f -"] * 3


def test_a_pf_that_stays_busy_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pf_module, "BUSY_LIMIT_S", 0.0)
    pf = engine(host((rf"pfctl -a {ANCHOR} -f -", BUSY)), run)
    with pytest.raises(CommandFailed, match="another program kept loading") as refused:
        pf.admit(MEMBER, Policy())
    assert refused.value.hint == "pgrep -fl pfctl shows it"


# The bridge.


def test_a_port_is_filtered_before_it_joins_the_bridge(run: Run) -> None:
    there = host()
    with open_pf_cubenet(there, run) as net:
        port = net.attach_epair(WHO, Policy())
        assert (port.name, port.jail) == ("epair0a", "epair0b")
        assert there.at("pfctl -a .* -f -") < there.at("ifconfig bridge0 addm epair0a")
        assert "on epair0a" in there.stdins[f"pfctl -a {ANCHOR} -f -"]
        tap = net.attach_tap(identity(6))
        assert (tap.name, tap.descriptor) == ("tap0", 0)
        begun = len(there.log)
        net.detach(WHO.id)
        assert there.log[begun:][-2:] == [f"pfctl -a {ANCHOR} -F all", "ifconfig epair0a destroy"]
        with pytest.raises(SandboxGone):
            net.detach(WHO.id)
    assert there.log[-1] == "ifconfig bridge0 destroy"
    assert there.at("ifconfig tap0 destroy") < len(there.log) - 1


def test_a_port_that_cannot_be_filtered_is_removed(run: Run) -> None:
    there = host((rf"pfctl -a {ANCHOR} -f -", Answer("", 1, "syntax error")))
    with open_pf_cubenet(there, run) as net:
        with pytest.raises(Exception, match="syntax error"):
            net.attach_epair(WHO)
        assert not any("addm" in line for line in there.log)
        assert there.log[-1] == "ifconfig epair0a destroy"


ROUTE = "   route to: default\ndestination: default\n  interface: re0\n      flags: <UP,GATEWAY>\n"


def test_translation_is_on_the_bridge_of_the_egress_interface(run: Run) -> None:
    there = host(
        ("route -n get default", Answer(ROUTE)),
        ("ifconfig -g bridge", Answer("bridge0\nvm-public\n")),
        ("ifconfig bridge0", Answer("bridge0: flags=8843\n")),
        ("ifconfig vm-public", Answer("\tmember: re0 flags=143<LEARNING>\n")),
    )
    assert egress_interface(there) == "vm-public"
    with open_pf_cubenet(there, run, outside=True):
        loaded = there.stdins[f"pfctl -a coppice/coppice-{MARK}-nat -N -f -"]
        assert loaded.startswith("nat on vm-public inet from 10.77.0.0/16 to ! 10.77.0.0/16 ->")
    there = host(
        ("route -n get default", Answer(ROUTE)), ("ifconfig -g bridge", Answer("bridge0\n")),
        ("ifconfig bridge0", Answer("bridge0: flags=8843\n")),
    )  # fmt: skip
    assert egress_interface(there) == "re0"


def test_an_uplink_needs_a_route_and_forwarding(run: Run) -> None:
    with pytest.raises(Unsupported, match="no default route"):
        egress_interface(host(("route -n get default", Answer("", 1, "route has not been found"))))
    with pytest.raises(Unsupported) as refused:
        with open_pf_cubenet(host(("sysctl -n net.inet.ip.forwarding", Answer("0\n"))), run,
                             outside=True):  # fmt: skip
            pass
    assert refused.value.hint == "sysctl net.inet.ip.forwarding=1"
