"""Run the drivers on a real FreeBSD and record every command: this makes the transcripts.

    python -m tests.freebsd.record WHERE [NAME ...]

WHERE is ssh://root@host, or the socket of a serial console with a root shell.
COPPICE_GUEST_AGENT is the agent's path on that machine. Each NAME of `SCENES` makes
tests/transcripts/NAME.json. test_transcripts.py replays the same scenes. Names are fixed, so that
both run the same commands.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.errors import CheckpointForeign, CoppiceError, NameTaken, UsageError
from harness.guest import agent_client
from harness.host import freebsd, leftovers_freebsd
from harness.host.leftover import Leftover
from harness.host.protocol import Host, must
from harness.host.run import Run
from harness.network.pf_cubenet import open_pf_cubenet
from harness.network.policy import Policy
from harness.remote.ssh import open_ssh
from harness.remote.ssh_connection import Address
from harness.sandbox.bhyve import BhyveSubstrate, checkpoint
from harness.sandbox.jail.substrate import JailSubstrate
from harness.sandbox.protocol import Sharing, Tier
from harness.sandbox.shared_kernel import SharedSandbox
from tests.freebsd.documented import MARK, identity, run_in
from tests.freebsd.hosts import TRANSCRIPTS, Recording
from tests.freebsd.serial import Console, Serial

CACHE = Path("/vms/c")
DIRECTORY = "/vms/run"
PATIENCE_S = 3600.0
Say = Callable[[str], object]


def doctor(host: Host, run: Run, say: Say) -> None:
    """Every requirement of `coppice doctor`."""
    for line in freebsd.all_requirements(host):
        say(f"{'ok' if line.satisfied else 'missing'} {line.what}: {line.detail}")


def jail(shape: str, host: Host, run: Run, say: Say) -> None:
    """A jail of a shape, in both tiers: launched, asked, frozen, thawed, destroyed."""
    jails = JailSubstrate(network=shape == "vnet-pf", host=lambda run: host)
    with run.at_end:
        template = jails.prepare(run, CACHE, Tier.FULL)
        for number, tier in enumerate(jails.tiers):
            sandbox = jails.launch(run, template, tier, identity(5 + number))
            sandbox.awaken(PATIENCE_S)
            say(f"{jails.name} {tier}: {sandbox.first_exec('word')}")
            sandbox.touch(1)
            say(str(sandbox.agent.hello().get("kernel")))
            sandbox.stop()
            sandbox.awaken(PATIENCE_S)
            sandbox.destroy()


def policy(host: Host, run: Run, say: Say) -> None:
    """Two jails on cubenet: policies are enforced, and pf counts what passes and what is denied."""
    jails = JailSubstrate(network=True, host=lambda run: host)
    with run.at_end:
        template = jails.prepare(run, CACHE, Tier.FULL)
        net = template.net
        assert net
        first, second = identity(5), identity(6)
        one = jails.launch(run, template, Tier.FULL, first)
        other = jails.launch(run, template, Tier.FULL, second)
        name = run.object_name(first.id)

        def reaches(ping: bool) -> None:
            words = ["jexec", name, "/bin/ping", "-c", "2", "-t", "4", str(second.address)]
            done = host.run(words)
            say(f"ping: {'answered' if done.code == 0 else 'nothing'}")
            assert (done.code == 0) == ping, done

        reaches(False)
        say(str(net.apply(first.id, Policy.of([str(second.address)]))))
        reaches(True)
        say(str(net.apply(first.id, Policy.of([str(second.address), "192.0.2.1"]))))
        reaches(True)
        say(str(net.apply(first.id, Policy.of(["192.0.2.1"]))))
        reaches(False)
        say(str(net.apply(first.id, Policy.of([], ["198.51.100.0/24"], ["192.0.2.53"], "allow"))))
        reaches(False)  # its neighbour has a private address, which must be allowed explicitly
        found = net.counters()
        say(str(found))
        assert found[first.id].sent > 0 and found[first.id].denied > 0
        many = [f"198.51.{100 + n // 250}.{1 + n % 250}" for n in range(1000)]
        net.apply(first.id, Policy.of(many))
        net.apply(first.id, Policy.of(many[1:]))
        one.destroy()
        other.destroy()


def outside(host: Host, run: Run, say: Say) -> None:
    """The bridge with an uplink: its address, and the translation."""
    with open_pf_cubenet(host, run) as net:
        must(host, ["ifconfig", net.bridge, "inet", "10.77.0.1/16"])
        net.engine.translate("lo0")
        say(host.run(["pfctl", "-a", f"coppice/{run.object_name('nat')}", "-s", "nat"]).text)


def left(host: Host, run: Run, say: Say) -> None:
    """Leftovers of a killed run are found, and removed in a working order."""
    jails = JailSubstrate(network=True, host=lambda run: host)
    with contextlib.ExitStack() as stack:
        run.at_end.enter_context(stack)
        template = jails.prepare(run, CACHE, Tier.FULL)
        sandbox = jails.launch(run, template, Tier.FULL, identity(5))
        for one in _left(host):
            say(f"found {one.what} {one.name}")
            leftovers_freebsd.remove(host, one)
        again = _left(host)
        assert again == [], again
        sandbox.agent.close()
        run.at_end.pop_all()


def bhyve(tier: Tier, host: Host, run: Run, say: Say) -> None:
    """A microVM of a tier, from its launch to an answer and its end."""
    substrate = BhyveSubstrate(lambda run: host)
    template = substrate.prepare(run, CACHE, tier)
    began = time.monotonic()
    guest = substrate.launch(run, template, tier, identity(5))
    try:
        guest.awaken(PATIENCE_S)
        say(f"{tier}: answered after {time.monotonic() - began:.0f} s: {guest.first_exec('word')}")
        say(str(guest.agent.hello()))
        guest.touch(16)
    finally:
        say(guest.vm.output())
        guest.destroy()


def in_the_way(host: Host, run: Run, say: Say) -> None:
    """Foreign objects with a name of the harness are refused and left alone."""
    name = run.object_name(identity(5).id)
    anchor = f"{leftovers_freebsd.ANCHOR}/{name}"
    rules = ["pfctl", "-a", "others/firewall", "-s", "rules"]
    before = must(host, rules).text
    assert before, "the scene needs foreign rules: load some into others/firewall"
    jails = JailSubstrate(network=True, host=lambda run: host)
    with run.at_end:
        template = jails.prepare(run, CACHE, Tier.FULL)
        must(host, ["jail", "-c", f"name={name}", "path=/", "persist"])
        _refused(NameTaken, say, lambda: jails.launch(run, template, Tier.FULL, identity(5)))
        must(host, ["jls", "-j", name, "name"])
        must(host, ["jail", "-r", name])
        must(host, ["pfctl", "-a", anchor, "-f", "-"], stdin=b"block drop from 203.0.113.8\n")
        _refused(NameTaken, say, lambda: jails.launch(run, template, Tier.FULL, identity(5)))
        assert "203.0.113.8" in must(host, ["pfctl", "-a", anchor, "-s", "rules"]).text
        must(host, ["pfctl", "-a", anchor, "-F", "all"])
    assert must(host, rules).text == before
    bhyve = BhyveSubstrate(lambda run: host)
    machine = bhyve.prepare(run, CACHE, Tier.DURABLE_POOL)
    must(host, ["bhyvectl", f"--vm={name}", "--create"])
    for tier in (Tier.FULL, Tier.DURABLE_POOL):
        _refused(NameTaken, say, functools.partial(bhyve.launch, run, machine, tier, identity(5)))
        must(host, ["test", "-c", f"/dev/vmm/{name}"])
    must(host, ["bhyvectl", f"--vm={name}", "--destroy"])


def unfit(host: Host, run: Run, say: Say) -> None:
    """A checkpoint of another memory size, and a path that bhyve cannot hold, are refused."""
    bhyve = BhyveSubstrate(lambda run: host)
    sealed = bhyve.prepare(run, CACHE, Tier.DURABLE_POOL).checkpoint
    assert sealed
    load = functools.partial(checkpoint.load, host, str(CACHE), sealed.built_from)
    assert load(256).memory == sealed.memory
    _refused(CheckpointForeign, say, lambda: load(128))
    long = CACHE / ("x" * 70)
    _refused(UsageError, say, lambda: bhyve.prepare(run, long, Tier.DURABLE_POOL))
    assert host.run(["test", "-e", str(long)]).code, "refused before anything was created"


def _refused(error: type[CoppiceError], say: Say, act: Callable[[], object]) -> None:
    try:
        act()
    except error as refusal:
        say(str(refusal))
    else:
        raise AssertionError(f"{error.__name__} was expected")


def density(count: int, sharing: Sharing, host: Host, run: Run, say: Say) -> None:
    """Concurrent guests of one checkpoint; free memory before and with them."""
    substrate = BhyveSubstrate(lambda run: host)
    template = substrate.prepare(run, CACHE, Tier.DURABLE_POOL)
    counter = ["sysctl", "-n", "vm.stats.vm.v_free_count"]
    before = int(host.run(counter).text)
    guests = []
    try:
        for number in range(count):
            guest = substrate.launch(
                run, template, Tier.DURABLE_POOL, identity(10 + number), sharing
            )
            guests.append(guest)
            guest.awaken(PATIENCE_S)
            guest.adopt_identity()
        names = {guest.agent.hello()["hostname"] for guest in guests}
        assert len(names) == count, names
        taken = (before - int(host.run(counter).text)) * 4096
        say(f"{count} guests, {sharing}: {taken / count / 2**20:.1f} MiB of free memory each")
        say(host.run(["ps", "-axo", "rss,command"]).text)
    finally:
        for guest in guests:
            guest.destroy()


SCENES: dict[str, Callable[[Host, Run, Say], None]] = {
    "doctor": doctor,
    "jail-raw": functools.partial(jail, "raw"),
    "jail-vnet-pf": functools.partial(jail, "vnet-pf"),
    "policy": policy,
    "outside": outside,
    "leftovers": left,
    "in-the-way": in_the_way,
    "unfit": unfit,
    **{f"bhyve-{tier}": functools.partial(bhyve, tier) for tier in Tier},
    **{
        f"density-{sharing}-{n}": functools.partial(density, n, sharing)
        for sharing in (Sharing.PRIVATE, Sharing.MAPPED)
        for n in (2, 4, 8)
    },
}


@contextlib.contextmanager
def reached(where: str, run: Run) -> Iterator[Host]:
    """A host by ssh address or serial console."""
    if where.startswith("ssh://"):
        with open_ssh(run, Address.parse(where)) as host:
            yield host
        return
    console = Console(where)
    try:
        console.ask(f"rm -rf {DIRECTORY}")
        yield Serial(console, DIRECTORY)
    finally:
        console.close()


def main(where: str, names: list[str]) -> None:
    for name in names or list(SCENES):
        with tempfile.TemporaryDirectory() as directory:
            run = run_in(Path(directory))
            with reached(where, run) as real:
                for one in _left(real):
                    leftovers_freebsd.remove(real, one)
                about = real.run(["uname", "-srm"]).text
                host = Recording(real)
                began = time.monotonic()
                SCENES[name](host, run, lambda text: print(f"  {text}", flush=True))
        doc = getattr(SCENES[name], "func", SCENES[name]).__doc__ or name
        host.save(TRANSCRIPTS / f"{name}.json", doc.splitlines()[0], f"{about}, emulated")
        print(f"{name}: {len(host.events)} events, {time.monotonic() - began:.0f} s", flush=True)


def _left(host: Host) -> list[Leftover]:
    """Leftovers of a scene, without its own directory and without other runs."""
    found = leftovers_freebsd.find(host, lambda mark: mark != MARK)
    return [one for one in found if one.what != "directory"]


def be_patient() -> None:
    """Lift time limits: an emulated machine is slow, and is paused at times."""
    agent_client.TIMEOUT_S = PATIENCE_S
    named = agent_client.Agent.run.__kwdefaults__ or {}
    named["timeout_s"] = PATIENCE_S
    for one in (agent_client.Agent.call, SharedSandbox.wait_for_start):
        found = one.__defaults__ or ()
        one.__defaults__ = tuple(PATIENCE_S if type(value) is float else value for value in found)


if __name__ == "__main__":
    be_patient()
    main(sys.argv[1], sys.argv[2:])
