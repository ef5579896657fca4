"""Policies in FreeBSD's pf: an anchor with its tables for each sandbox, below one root anchor.

A change of addresses alone replaces one table; any other loads the anchor anew: either is one
transaction of the kernel's. Where a policy tightens, the sandbox's states are killed after it;
what is still allowed makes its state anew with its next packet. Once the call has returned, nothing
was seen to pass that is denied; while it lasts, changes in one step have shown 2 to 7 packets each
that no single policy explains (policy-enforcement, 100 packets a second, an emulated 13.2). By what
mechanism was not followed. Rules of others are never touched: the main rules must name our root
anchor, and an anchor of our name that somebody else filled is refused.

pf judges packets, not frames: a forged source address is blocked, a forged card is not, nor are
ARP and neighbour discovery. The bridge must show its members to pf (net.link.bridge.pfil_member).
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
from harness.network.pf_rules import ANSWERED, DENIED, FORGED, SENT, Ruleset, ruleset, tightens
from harness.network.policy import Destination, Policy
from harness.network.protocol import Change, Counters, Member

BUSY_LIMIT_S = 60.0
LOAD_LIMIT_S = 300.0
"""A thousand services are a thousand rules, which an emulated host takes ten seconds for."""


class Pf:
    """Implements `harness.network.protocol.PolicyEngine`.

    `card` names the interface of a port's number. Raises Unsupported where pf is not ready for us,
    with the line that mends it; the limit of anchors is no reason.
    """

    def __init__(
        self, host: Host, run: Run, card: Callable[[int], str] = socket.if_indextoname
    ) -> None:
        self._host = host
        self._run = run
        self._card = card
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
                    f"pf has an anchor {anchor} that is not of this network; it was left as it is",
                    hint="coppice clean removes it if a dead run left it",
                )
            self._load(member, policy)
            self._members[member.id], self._policies[member.id] = member, policy
            return _change(Policy(), policy)

    def apply(self, id: str, policy: Policy) -> Change:
        with self._lock:
            member, before = self._member(id), self._policies[id]
            self._load(member, policy)
            self._policies[id] = policy
            if tightens(before, policy):
                self._kill_states(member)
            return _change(before, policy)

    def expel(self, id: str) -> None:
        with self._lock:
            member = self._member(id)
            # First nothing may pass, then what passed is forgotten; the anchor goes last. Whole and
            # uncounted: nobody asks for its counters any more.
            del self._loaded[id]
            self._load(member, Policy())
            self._kill_states(member)
            self._pfctl("-a", self._anchor(id), "-F", "all")
            del self._members[id], self._policies[id], self._loaded[id]
            self._kept.pop(id, None)

    def counters(self) -> Mapping[str, Counters]:
        with self._lock:
            return {id: self._counters(id) for id in self._members}

    def holds(self, id: str, destination: Destination) -> bool:
        with self._lock:
            places = ruleset(self._member(id), "", Policy([destination])).tables
            (name,) = (one for one in places if one != "own")
            words = ["pfctl", "-a", self._anchor(id), "-t", name, "-T", "show"]
            return places[name][0] in self._host.run(words).text.split()

    def nothing(self) -> None:
        self._pfctl("-a", ANCHOR, "-s", "Anchors")

    def translate(self, egress: str, address: str | None = None) -> None:
        """Let what sandboxes may send outside leave by `egress`, under its address.

        Where the way out is a member of a bridge, `egress` is the bridge: pf sees packets there
        first (`way_out` finds it).
        """
        to = address or f"({egress})"
        text = f"nat on {egress} inet from {NETWORK} to ! {NETWORK} -> {to}\n"
        text += f"nat on {egress} inet6 from {NETWORK6} to ! {NETWORK6} -> ({egress})\n"
        self._pfctl("-a", self._anchor("nat"), "-N", "-f", "-", stdin=text)

    def close(self) -> None:
        """Take every anchor off, and the states; also what was translated."""
        with contextlib.suppress(SandboxGone):
            for id in list(self._members):
                self.expel(id)
        self._pfctl("-a", self._anchor("nat"), "-F", "all")

    def _anchor(self, id: str) -> str:
        return f"{ANCHOR}/{self._run.object_name(id)}"

    def _member(self, id: str) -> Member:
        try:
            return self._members[id]
        except KeyError:
            raise SandboxGone(
                f"{id} is not in the network", hint="it was detached, or never attached"
            ) from None

    def _load(self, member: Member, policy: Policy) -> None:
        """Give the kernel what differs; in one step, whatever that is."""
        anchor = self._anchor(member.id)
        new = ruleset(member, self._card(member.port), policy)
        old = self._loaded.get(member.id)
        if old is not None and old.rules == new.rules and old.tables.keys() == new.tables.keys():
            changed = [one for one in new.tables if new.tables[one] != old.tables[one]]
            if not changed:
                return
            if len(changed) == 1:
                entries = "\n".join(new.tables[changed[0]])
                words = ("-a", anchor, "-t", changed[0], "-T", "replace", "-f", "-")
                self._pfctl(*words, stdin=entries + "\n")
                self._loaded[member.id] = new
                return
        if old is not None:
            # New rules count from nothing: what the old ones counted is kept here. Packets between
            # this look and the load are not counted.
            self._kept[member.id] = self._counters(member.id)
        self._pfctl("-a", anchor, "-f", "-", stdin=new.text())
        self._loaded[member.id] = new

    def _kill_states(self, member: Member) -> None:
        for address in (member.address, member.address6):
            self._pfctl("-k", str(address))

    def _counters(self, id: str) -> Counters:
        """From the labels of rules: name, evaluations, packets, bytes; those in; those out. With
        what was counted before the rules were loaded anew."""
        found = dict.fromkeys((SENT, DENIED, FORGED, ANSWERED), (0, 0))
        for line in self._pfctl("-a", self._anchor(id), "-s", "labels").splitlines():
            label, *numbers = line.split()
            if label in found and len(numbers) >= 5:
                packets, size = int(numbers[3]), int(numbers[4])
                found[label] = found[label][0] + packets, found[label][1] + size
        counted = [found[one] for one in (SENT, ANSWERED, DENIED)]
        sent, sent_bytes = (sum(column) for column in zip(*counted, strict=True))
        kept = self._kept.get(id, Counters(0, 0, 0, 0))
        return Counters(
            kept.sent + sent,
            kept.sent_bytes + sent_bytes,
            kept.denied + found[DENIED][0],
            kept.spoofed + found[FORGED][0],
        )

    def _pfctl(self, *words: str, stdin: str = "") -> str:
        """pfctl's output. Loading is done again while another program's loading comes between: the
        kernel has one buffer for the addresses of rules, and a load that lost it changed nothing.
        """
        deadline = time.monotonic() + BUSY_LIMIT_S
        while True:
            try:
                text = stdin.encode()
                return must(self._host, ["pfctl", *words], stdin=text, timeout_s=LOAD_LIMIT_S).text
            except CommandFailed as error:
                if "Device busy" not in error.error_text or time.monotonic() > deadline:
                    raise _explained(error) from error
            time.sleep(random.uniform(0.01, 0.1))


def _explained(error: CommandFailed) -> Exception:
    """What pf's refusal means to somebody who wants a network."""
    said = error.error_text
    if re.search(r"Permission denied|Operation not permitted", said):
        return MissingPrivilege(f"pf may not be changed: {said}", hint="run it again as root")
    if re.search(r"/dev/pf.*(No such file|not configured)", said):
        return Unsupported("this kernel has no pf now", hint="kldload pf && pfctl -e")
    if "Device busy" in said:
        why = f"another program kept loading rules into pf for {BUSY_LIMIT_S:g} s: {said}"
        return CommandFailed(why, error.code, said, hint="pgrep -fl pfctl names it")
    if re.search(r"Cannot allocate memory|too many anchors|Too many", said):
        return NotEnoughMemory(
            f"pf has no room for this: {said}",
            hint="raise it in /etc/pf.conf: set limit anchors, tables or table-entries",
        )
    return error


def _change(before: Policy, after: Policy) -> Change:
    old = {(name, one) for name in ("allow", "deny", "dns") for one in getattr(before, name)}
    new = {(name, one) for name in ("allow", "deny", "dns") for one in getattr(after, name)}
    return Change(len(new - old), len(old - new), cuts_established=True)


def way_out(host: Host) -> str:
    """The interface that translated packets leave by: the default route's, or the bridge that it
    is a member of, since pf sees packets there first. Unsupported where there is no route."""
    route = host.run(["route", "-n", "get", "default"])
    found = re.search(r"interface: (\S+)", route.text)
    if route.code or not found:
        raise Unsupported("this host has no way out", hint="route add default ADDRESS")
    groups = host.run(["ifconfig", "-g", "bridge"])
    for bridge in groups.text.split() if groups.code == 0 else ():
        if re.search(rf"member: {re.escape(found[1])} ", host.run(["ifconfig", bridge]).text):
            return bridge
    return found[1]
