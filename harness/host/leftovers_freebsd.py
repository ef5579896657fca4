"""What dead runs have left in a FreeBSD kernel and on its pools: found by name, removed in order.

Names carry the last eight digits of a run's id (`Run.object_name`). What does not begin as ours do
is never looked at, let alone touched. Everything goes through a host, so it works from a
workstation too, and where there is no Python.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from harness.host.leftover import Leftover
from harness.host.protocol import Host
from harness.host.run import NAME_PREFIX

ANCHOR = "coppice"
"""The root anchor: everything of ours in pf is below it."""
GROUP = "coppice"
"""The group of every interface that we make; its description is the name of what it belongs to."""
_NAME = re.compile(rf"{NAME_PREFIX}([0-9a-f]{{8}})-[0-9a-z]+")


def find(host: Host, is_alive: Callable[[str], bool]) -> list[Leftover]:
    """Everything of runs that do not live, in the order in which it must go.

    `lives` says of a run's mark whether that run does. `what` of what is found is bhyve, jail,
    mount, vm, interface, anchor, limits, clone or directory.
    """
    return [one for one in _all(host) if not is_alive(one.run_id)]


def _all(host: Host) -> Iterator[Leftover]:
    for line in _lines(host, ["ps", "-axww", "-o", "pid=", "-o", "command="]):
        pid, _, command = line.strip().partition(" ")
        # bhyve's title is its machine's name; a jail's programs go with their jail.
        if (name := _NAME.search(command)) and "bhyve" in command and "ctl" not in command:
            yield Leftover("bhyve", name[1], pid)
    for name in _ours(_lines(host, ["jls", "name"])):
        yield Leftover("jail", name[1], name[0])
    for line in reversed(_lines(host, ["mount", "-p"])):
        fields = line.split()
        if len(fields) > 1 and (name := _NAME.search(fields[1])) and fields[2] != "zfs":
            yield Leftover("mount", name[1], fields[1])
    for name in _ours(_lines(host, ["ls", "/dev/vmm"])):
        yield Leftover("vm", name[1], name[0])
    for interface in " ".join(_lines(host, ["ifconfig", "-g", GROUP])).split():
        described = re.search(
            r"description: (\S+)", "\n".join(_lines(host, ["ifconfig", interface]))
        )
        if described and (name := _NAME.fullmatch(described[1])):
            yield Leftover("interface", name[1], interface)
    for line in _lines(host, ["pfctl", "-a", ANCHOR, "-s", "Anchors"]):
        name = _NAME.fullmatch(line.strip().rpartition("/")[2])
        if name and _filled(host, line.strip()):
            yield Leftover("anchor", name[1], line.strip())
    limited = [re.match(rf"jail:({_NAME.pattern}):", line) for line in _lines(host, ["rctl"])]
    for jail, mark in dict.fromkeys((one[1], one[2]) for one in limited if one):
        yield Leftover("limits", mark, f"jail:{jail}")  # all of a jail's go at once
    for name in _ours(_lines(host, ["zfs", "list", "-H", "-o", "name", "-t", "filesystem"])):
        yield Leftover("clone", name[1], name.string)
    for name in _ours(_lines(host, ["ls", "/var/tmp"])):
        yield Leftover("directory", name[1], f"/var/tmp/{name[0]}")


def _lines(host: Host, argv: Sequence[str]) -> list[str]:
    """What a program prints; nothing when it fails: without pf there are no anchors, say."""
    done = host.run(argv)
    return [] if done.code else done.stdout.decode(errors="replace").splitlines()


def _filled(host: Host, anchor: str) -> bool:
    """Whether an anchor judges anything: a flushed one is listed for some ten seconds more, until
    the kernel has forgotten its rules."""
    return any(
        _lines(host, ["pfctl", "-a", anchor, "-s", one]) for one in ("rules", "Tables", "nat")
    )


def _ours(lines: Sequence[str]) -> Iterator[re.Match[str]]:
    """Lines whose last part is a name of ours."""
    for line in lines:
        if found := re.search(rf"(?:^|/)({_NAME.pattern})$", line.strip()):
            match = _NAME.search(line.strip(), found.start(1))
            assert match
            yield match


_REMOVE: dict[str, Callable[[str], Sequence[Sequence[str]]]] = {
    # One that is stopped does not see a signal before it is continued, but for this one.
    "bhyve": lambda name: [["kill", "-9", name]],
    "jail": lambda name: [["jail", "-r", name]],
    "mount": lambda name: [["umount", "-f", name]],
    "vm": lambda name: [["bhyvectl", f"--vm={name}", "--destroy"]],
    "interface": lambda name: [["ifconfig", name, "destroy"]],
    "anchor": lambda name: [["pfctl", "-a", name, "-F", "all"]],
    "limits": lambda name: [["rctl", "-r", name]],
    "clone": lambda name: [["zfs", "destroy", "-f", name]],
    "directory": lambda name: [["rm", "-rf", name]],
}


def remove(host: Host, one: Leftover) -> None:
    """Make one leftover go away; it may have gone by itself."""
    for argv in _REMOVE[one.what](one.name):
        host.run(argv)
