"""Finds and removes what dead runs have left in a FreeBSD kernel and on its ZFS pools.

Objects are found by name, which contains the last eight digits of a run's id (`Run.object_name`);
others are never touched. All commands go through a `Host`, so that this also works on another
machine, and on one without Python.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from harness.host.leftover import Leftover
from harness.host.protocol import Host
from harness.host.run import NAME_PREFIX

ANCHOR = "coppice"
"""The root anchor of all our pf rules."""
GROUP = "coppice"
"""The group of every interface that runs create; its description names the object it serves."""
_NAME = re.compile(rf"{NAME_PREFIX}([0-9a-f]{{8}})-[0-9a-z]+")


def find(host: Host, is_alive: Callable[[str], bool]) -> list[Leftover]:
    """Everything that dead runs have left, in the order in which it must be removed.

    `is_alive` takes a run's mark. `what` of the leftovers is bhyve, jail, mount, vm, interface,
    anchor, limits, clone or directory.
    """
    return [leftover for leftover in _all(host) if not is_alive(leftover.run_id)]


def _all(host: Host) -> Iterator[Leftover]:
    for line in _lines(host, ["ps", "-axww", "-o", "pid=", "-o", "command="]):
        pid, _, command = line.strip().partition(" ")
        # bhyve's title contains its VM's name; a jail's processes end with the jail.
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
    matches = [re.match(rf"jail:({_NAME.pattern}):", line) for line in _lines(host, ["rctl"])]
    for jail, mark in dict.fromkeys((match[1], match[2]) for match in matches if match):
        yield Leftover("limits", mark, f"jail:{jail}")  # removes all limits of a jail
    for name in _ours(_lines(host, ["zfs", "list", "-H", "-o", "name", "-t", "filesystem"])):
        yield Leftover("clone", name[1], name.string)
    for name in _ours(_lines(host, ["ls", "/var/tmp"])):
        yield Leftover("directory", name[1], f"/var/tmp/{name[0]}")


def _lines(host: Host, argv: Sequence[str]) -> list[str]:
    """The lines of a program's stdout; none when it fails (pfctl without pf, for example)."""
    done = host.run(argv)
    return [] if done.code else done.stdout.decode(errors="replace").splitlines()


def _filled(host: Host, anchor: str) -> bool:
    """Whether an anchor has rules: a flushed one stays listed for about ten seconds."""
    return any(
        _lines(host, ["pfctl", "-a", anchor, "-s", what]) for what in ("rules", "Tables", "nat")
    )


def _ours(lines: Sequence[str]) -> Iterator[re.Match[str]]:
    """Matches of the lines whose last path component is an object of a run."""
    for line in lines:
        if found := re.search(rf"(?:^|/)({_NAME.pattern})$", line.strip()):
            match = _NAME.search(line.strip(), found.start(1))
            assert match
            yield match


_REMOVE: dict[str, Callable[[str], Sequence[Sequence[str]]]] = {
    # SIGKILL, because a stopped process handles no other signal.
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


def remove(host: Host, leftover: Leftover) -> None:
    """Remove one leftover; safe if it is gone already."""
    for argv in _REMOVE[leftover.what](leftover.name):
        host.run(argv)
