"""The image of FreeBSD guests and jails: the host's own kernel and rescue programs, and our agent.

It is built on that host with its own tools, and named in its cache by the digest of all inputs. The
agent is compiled there with the base system's compiler; where there is none, COPPICE_GUEST_AGENT
names a compiled agent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import paths
from harness.errors import CommandFailed, ImageError
from harness.host.protocol import Host, must
from harness.measure.record import Image

AGENT = paths.AGENT
COMPILE = ("cc", "-static", "-Os", "-s", "-Wall", "-Wextra")
NAMED_AGENT = "COPPICE_GUEST_AGENT"
KERNEL = "/boot/kernel/kernel"
RESCUE = "/rescue/rescue"
"""A static multi-call binary."""
APPLETS = (
    "sh", "cat", "chmod", "cp", "date", "dd", "df", "echo", "ed", "expr", "hostname", "ifconfig",
    "kenv", "kill", "ln", "ls", "md5", "mkdir", "mount", "mv", "ping", "ps", "pwd", "realpath",
    "rm", "rmdir", "route", "sleep", "stty", "sync", "sysctl", "tail", "tar", "test", "umount",
)  # fmt: skip
_LINUX = ("doorbell.c", "self.c", "system.c")
"""Parts of the agent that agent/freebsd replaces."""
DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "run", "sbin", "tmp", "usr", "var")
_LOADER_CONF = """\
autoboot_delay="-1"
beastie_disable="YES"
loader_logo="none"
boot_mute="YES"
mfsroot_load="YES"
mfsroot_type="md_image"
mfsroot_name="/boot/mfsroot"
vfs.root.mountfrom="ufs:/dev/md0"
init_path="/sbin/init"
hint.uart.0.flags="0x0"
kern.random.initial_seeding.bypass_before_seeding="1"
"""
"""com1 is the agent's channel, so the kernel's console must not use it."""


@dataclass(frozen=True)
class FreebsdImage:
    """A directory on the host with `root`, and for a microVM `stage`, the loader's file system."""

    directory: str
    sha256: str
    built_from: Mapping[str, str]

    @property
    def root(self) -> str:
        return f"{self.directory}/tree"

    @property
    def stage(self) -> str:
        return f"{self.directory}/stage"

    def as_record(self, name: str) -> Image:
        return Image(name, self.sha256, self.built_from)


def sources() -> Sequence[Path]:
    """The agent's source files: the common ones, and FreeBSD's instead of Linux's."""
    own = {path.name: path for path in sorted((AGENT / "freebsd").glob("*.c"))}
    shared = {path.name: path for path in sorted(AGENT.glob("*.[ch]")) if path.name not in _LINUX}
    return list({**shared, **own}.values())


def _digest(host: Host, path: str) -> str:
    return must(host, ["sha256", "-q", path]).text


def build(host: Host, cache: str, *, kernel: bool) -> FreebsdImage:
    """The image for a host, from its cache or built now; with `kernel`, for a microVM.

    Raises ImageError, MissingTool and DiskFull, and leaves no partial image.
    """
    inputs = _inputs(host, kernel)
    name = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    directory = f"{cache}/freebsd/{name[:16]}"
    if host.run(["test", "-e", f"{directory}/sha256"]).code:
        with building(host, directory) as half:
            _root(host, half)
            if kernel:
                _stage(host, half)
            made = FreebsdImage(half, "", inputs)
            content = _digest(host, f"{made.root}/sbin/init") + json.dumps(inputs, sort_keys=True)
            host.put(hashlib.sha256(content.encode()).hexdigest().encode(), f"{half}/sha256")
    return FreebsdImage(directory, host.get(f"{directory}/sha256").decode(), inputs)


@contextlib.contextmanager
def building(host: Host, directory: str) -> Iterator[str]:
    """A temporary directory on the host that is renamed to `directory` at the end, unless another
    builder was first."""
    half = f"{directory}.building-{secrets.token_hex(4)}"
    must(host, ["mkdir", "-p", half])
    try:
        yield half
        host.run(["mv", "-n", half, directory])
    finally:
        host.run(["rm", "-rf", half])


def _inputs(host: Host, kernel: bool) -> dict[str, str]:
    found = {
        "system": must(host, ["uname", "-sr"]).text,
        "rescue_sha256": _digest(host, RESCUE),
        "loader": hashlib.sha256(_LOADER_CONF.encode()).hexdigest(),
    }
    named = os.environ.get(NAMED_AGENT)
    if named:
        found["agent"] = _digest(host, named)
    else:
        whole = hashlib.sha256()
        for path in sources():
            whole.update(path.name.encode() + b"\0" + path.read_bytes())
        found["agent"] = whole.hexdigest()
        found["compiler"] = must(host, [COMPILE[0], "--version"]).text.splitlines()[0]
    if kernel:
        found["kernel_sha256"] = _digest(host, KERNEL)
    return found


def _root(host: Host, half: str) -> None:
    """Build a root file system: the rescue program under many names, and the agent."""
    root = f"{half}/tree"
    must(host, ["mkdir", "-p", *(f"{root}/{name}" for name in DIRECTORIES)])
    must(host, ["cp", RESCUE, f"{root}/bin/sh"])
    links = " ".join(name for name in APPLETS if name != "sh")
    must(host, ["sh", "-c", f'cd "$0" && for n in {links}; do ln sh $n; done', f"{root}/bin"])
    host.put(b"root:*:0:0:root:/root:/bin/sh\n", f"{root}/etc/passwd")
    agent = os.environ.get(NAMED_AGENT) or _compiled(host, half)
    must(host, ["cp", agent, f"{root}/sbin/init"])
    must(host, ["chmod", "0755", f"{root}/sbin/init"])


def _compiled(host: Host, half: str) -> str:
    directory = f"{half}/agent"
    for path in sources():
        host.put(path, f"{directory}/{path.name}")
    files = [f"{directory}/{path.name}" for path in sources() if path.suffix == ".c"]
    try:
        must(host, [*COMPILE, "-o", f"{half}/agent.bin", *files], timeout_s=300)
    except CommandFailed as error:
        raise ImageError(f"cannot compile the agent on {host.name}: {error.error_text}") from error
    return f"{half}/agent.bin"


def _stage(host: Host, half: str) -> None:
    """Build what bhyveload reads: loader scripts, kernel and memory disk."""
    boot = f"{half}/stage/boot"
    must(host, ["mkdir", "-p", f"{boot}/kernel"])
    must(host, ["cp", KERNEL, f"{boot}/kernel/kernel"])
    must(host, ["cp", "-R", "/boot/lua", "/boot/defaults", "/boot/device.hints", f"{boot}/"])
    host.put(_LOADER_CONF.encode(), f"{boot}/loader.conf")
    must(host, ["makefs", "-t", "ffs", "-b", "10%", "-f", "500", f"{boot}/mfsroot", f"{half}/tree"])
