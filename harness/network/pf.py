"""Policies in FreeBSD's pf: an anchor with tables for each sandbox, below one root anchor.

A change of addresses in one table replaces that table; any other change loads the anchor again.
Either is one transaction of the kernel. When a policy becomes stricter, the sandbox's states are
killed afterwards, by a second call; traffic that is still allowed creates its state again with its
next packet. No denied packet was seen to pass after the call had returned. A change that is both
stricter and looser first loads what both policies allow, then kills the states, then loads the new
policy, so that nothing new passes while something old still does (`pf_rules.between`). Other rules
are never touched: the main rules must contain our root anchor, and an anchor of our name with
foreign content is refused.

pf filters packets, not frames: a forged source IP address is blocked, a forged MAC address is not,
nor are ARP and neighbour discovery. pf must see bridge members (net.link.bridge.pfil_member).
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping

from harness.errors import (
    CommandFailed,
    CoppiceError,
    MissingPrivilege,
    NameTaken,
    NotEnoughMemory,
    SandboxGone,
    Unsupported,
    UsageError,
)
from harness.host.freebsd import pf as requirements
from harness.host.identity import NETWORK, NETWORK6
from harness.host.leftovers_freebsd import ANCHOR
from harness.host.protocol import Host, must
from harness.host.run import Run
from harness.network.pf_rules import (
    ANSWERED,
    DENIED,
    FORGED,
    SENT,
    Ruleset,
    between,
    ruleset,
    tightens,
)
from harness.network.policy import Destination, Policy
from harness.network.protocol import Change, Counters, Member, member_of

BUSY_LIMIT_S = 60.0
LOAD_LIMIT_S = 300.0
"""A thousand services are a thousand rules, which take an emulated host ten seconds to load."""


class Pf:
    """Implements `harness.network.protocol.PolicyEngine`.

    `interface` returns the name of a port's interface by its number. Raises Unsupported where pf is
    not set up, with the remedy; a low limit of anchors is accepted.
    """

    def __init__(
        self, host: Host, run: Run, interface: Callable[[int], str] = socket.if_indextoname
    ) -> None:
        self._host = host
        self._run = run
        self._interface_of = interface
        self._lock = threading.Lock()
        self._members: dict[str, Member] = {}
        self._policies: dict[str, Policy] = {}
        self._loaded: dict[str, Ruleset] = {}
        self._kept: dict[str, Counters] = {}
        for need in requirements(host):
            if not need.satisfied and "limit" not in need.what:
                raise Unsupported(f"{need.what}: {need.detail}", hint=need.remedy)

    def admit(self, member: Member, policy: Policy) -> Change:
        with self._lock:
            if member.id in self._members:
                raise UsageError(f"{member.id} is in the network already")
            anchor = self._anchor(member.id)
            if self._pfctl("-a", anchor, "-s", "rules") + self._pfctl("-a", anchor, "-s", "Tables"):
                raise NameTaken(
                    f"pf has an anchor {anchor} of another network, which was left alone",
                    hint="coppice clean removes it if a killed run left it",
                )
            self._load(member, self._ruleset(member, policy))
            self._members[member.id], self._policies[member.id] = member, policy
            return _change(Policy(), policy)

    def apply(self, id: str, policy: Policy) -> Change:
        with self._lock:
            member, before = member_of(self._members, id), self._policies[id]
            if tightens(before, policy) and tightens(policy, before):
                self._exchange(member, before, policy)
            else:
                self._load(member, self._ruleset(member, policy))
                if tightens(before, policy):
                    self._kill_states(member)
            self._policies[id] = policy
            return _change(before, policy)

    def expel(self, id: str) -> None:
        with self._lock:
            member = member_of(self._members, id)
            # First deny everything, then kill the states; flush the anchor last. Loaded without
            # saving counters, which are no longer needed.
            del self._loaded[id]
            self._load(member, self._ruleset(member, Policy()))
            self._kill_states(member)
            self._pfctl("-a", self._anchor(id), "-F", "all")
            del self._members[id], self._policies[id], self._loaded[id]
            self._kept.pop(id, None)

    def counters(self) -> Mapping[str, Counters]:
        with self._lock:
            return {id: self._counters(id) for id in self._members}

    def holds(self, id: str, destination: Destination) -> bool:
        with self._lock:
            places = ruleset(member_of(self._members, id), "", Policy([destination])).tables
            (name,) = (name for name in places if name != "own")
            argv = ["pfctl", "-a", self._anchor(id), "-t", name, "-T", "show"]
            return places[name][0] in self._host.run(argv).text.split()

    def empty_change(self) -> None:
        self._pfctl("-a", ANCHOR, "-s", "Anchors")

    def translate(self, egress: str, address: str | None = None) -> None:
        """Translate what sandboxes may send outside to the address of the interface `egress`.

        If the outgoing interface is a member of a bridge, `egress` must be the bridge, where pf
        sees packets first (`egress_interface` returns it).
        """
        to = address or f"({egress})"
        text = f"nat on {egress} inet from {NETWORK} to ! {NETWORK} -> {to}\n"
        text += f"nat on {egress} inet6 from {NETWORK6} to ! {NETWORK6} -> ({egress})\n"
        self._pfctl("-a", self._anchor("nat"), "-N", "-f", "-", stdin=text)

    def close(self) -> None:
        """Flush every anchor, translation included, and kill the states."""
        with contextlib.suppress(SandboxGone):
            for id in list(self._members):
                self.expel(id)
        self._pfctl("-a", self._anchor("nat"), "-F", "all")

    def _anchor(self, id: str) -> str:
        return f"{ANCHOR}/{self._run.object_name(id)}"

    def _ruleset(self, member: Member, policy: Policy) -> Ruleset:
        return ruleset(member, self._interface_of(member.port), policy)

    def _exchange(self, member: Member, before: Policy, after: Policy) -> None:
        """Change to a policy that is stricter and looser. A failure leaves the old one."""
        try:
            self._load(member, between(member, self._interface_of(member.port), before, after))
            self._kill_states(member)
            self._load(member, self._ruleset(member, after))
        except BaseException:
            with contextlib.suppress(CoppiceError):  # else what both allow stays in force
                self._load(member, self._ruleset(member, before))
            raise

    def _load(self, member: Member, new: Ruleset) -> None:
        """Load the differences, in one transaction."""
        anchor = self._anchor(member.id)
        old = self._loaded.get(member.id)
        if old is not None and old.rules == new.rules and old.tables.keys() == new.tables.keys():
            changed = [table for table in new.tables if new.tables[table] != old.tables[table]]
            if not changed:
                return
            if len(changed) == 1:
                entries = "\n".join(new.tables[changed[0]])
                argv = ("-a", anchor, "-t", changed[0], "-T", "replace", "-f", "-")
                self._pfctl(*argv, stdin=entries + "\n")
                self._loaded[member.id] = new
                return
        if old is not None:
            # New rules start at zero, so save the counters. Packets between this reading and the
            # load are not counted.
            self._kept[member.id] = self._counters(member.id)
        self._pfctl("-a", anchor, "-f", "-", stdin=new.text())
        self._loaded[member.id] = new

    def _kill_states(self, member: Member) -> None:
        for address in (member.address, member.address6):
            self._pfctl("-k", str(address))

    def _counters(self, id: str) -> Counters:
        """Counters from the rules' labels, plus those saved before rules were loaded again. A line
        has the label, evaluations, packets, bytes, then packets and bytes in and out."""
        found = dict.fromkeys((SENT, DENIED, FORGED, ANSWERED), (0, 0))
        for line in self._pfctl("-a", self._anchor(id), "-s", "labels").splitlines():
            label, *numbers = line.split()
            if label in found and len(numbers) >= 5:
                packets, size = int(numbers[3]), int(numbers[4])
                found[label] = found[label][0] + packets, found[label][1] + size
        counted = [found[label] for label in (SENT, ANSWERED, DENIED)]
        sent, sent_bytes = (sum(column) for column in zip(*counted, strict=True))
        kept = self._kept.get(id, Counters(0, 0, 0, 0))
        return Counters(
            kept.sent + sent,
            kept.sent_bytes + sent_bytes,
            kept.denied + found[DENIED][0],
            kept.spoofed + found[FORGED][0],
        )

    def _pfctl(self, *argv: str, stdin: str = "") -> str:
        """pfctl's output. Retries while another program is loading rules: the kernel has a single
        buffer for rules' addresses, and a load that loses it has no effect.
        """
        deadline = time.monotonic() + BUSY_LIMIT_S
        while True:
            try:
                text = stdin.encode()
                return must(self._host, ["pfctl", *argv], stdin=text, timeout_s=LOAD_LIMIT_S).text
            except CommandFailed as error:
                if "Device busy" not in error.error_text or time.monotonic() > deadline:
                    raise _explained(error) from error
            time.sleep(random.uniform(0.01, 0.1))


def _explained(error: CommandFailed) -> Exception:
    """The error for a refusal by pf, with its cause and remedy."""
    said = error.error_text
    if re.search(r"Permission denied|Operation not permitted", said):
        return MissingPrivilege(f"pf may not be changed: {said}", hint="run it again as root")
    if re.search(r"/dev/pf.*(No such file|not configured)", said):
        return Unsupported("pf is not loaded", hint="kldload pf && pfctl -e")
    if "Device busy" in said:
        why = f"another program kept loading rules into pf for {BUSY_LIMIT_S:g} s: {said}"
        return CommandFailed(why, error.code, said, hint="pgrep -fl pfctl shows it")
    if re.search(r"Cannot allocate memory|too many anchors|Too many", said):
        return NotEnoughMemory(
            f"pf has no room for this: {said}",
            hint="raise it in /etc/pf.conf: set limit anchors, tables or table-entries",
        )
    return error


def _change(before: Policy, after: Policy) -> Change:
    old = {(name, entry) for name in ("allow", "deny", "dns") for entry in getattr(before, name)}
    new = {(name, entry) for name in ("allow", "deny", "dns") for entry in getattr(after, name)}
    return Change(len(new - old), len(old - new), cuts_established=True)


def egress_interface(host: Host) -> str:
    """The interface for translated packets: the default route's, or the bridge that it is a member
    of, where pf sees packets first. Unsupported without a default route."""
    route = host.run(["route", "-n", "get", "default"])
    found = re.search(r"interface: (\S+)", route.text)
    if route.code or not found:
        raise Unsupported("this host has no default route", hint="route add default ADDRESS")
    groups = host.run(["ifconfig", "-g", "bridge"])
    for bridge in groups.text.split() if groups.code == 0 else ():
        if re.search(rf"member: {re.escape(found[1])} ", host.run(["ifconfig", bridge]).text):
            return bridge
    return found[1]
