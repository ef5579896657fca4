"""Confines VMMs: a user, namespaces, a root, a seccomp filter and a control group for each.

programs/jail.c becomes the VMM. Whatever can be prepared is prepared once for a run: the root is a
mount namespace that programs/jail_root.c builds, with QEMU, its libraries and firmware and nothing
else; each VMM enters it. All other files reach a VMM as open descriptors.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import paths
from harness.errors import CoppiceError, DiskFull, LimitReached, SandboxError, Unsupported
from harness.failures import typed
from harness.host.cgroup_limits import LimitedGroup, LimitedGroups, Limits
from harness.host.identity import NETWORK, Identity
from harness.host.locks import half_built
from harness.host.process import need
from harness.host.process import run as run_program
from harness.host.run import Run
from harness.host.session import trial_run
from harness.measure.record import Image, digest
from harness.measure.used_images import use
from harness.paths import cache_directory
from harness.sandbox.qemu.confinement import ALL, VARIABLE, Confinement, Level, Part, chosen
from harness.sandbox.qemu.machine import PROGRAM, Shape, qemu_release
from harness.sandbox.qemu.machine import program as program_of

MIB = 1 << 20
USERS = 0x71000000
"""The first user of VMMs; containers' begin at 0x70000000 (harness/sandbox/oci/config.py)."""
USER_BLOCKS = 3840
"""Blocks of users, one for each runtime directory: its leases make users unique within it."""
MEMORY_BESIDES_GUEST = 640 * MIB
"""Bytes of a VMM's group beyond twice the guest's memory, which it may map and copy."""
PIDS = 128
CPUS = 2.0
"""One for the guest's only vCPU, one for the VMM's other threads."""
OPEN_FILES = 512
LOG_BYTES = 64 * MIB
"""Most bytes of a file that a VMM writes: of its log, where it has no disk."""
FIRMWARE = ("/usr/share/qemu", "/usr/share/seabios", "/usr/local/share/qemu")
MODULES = ("/usr/lib/x86_64-linux-gnu/qemu", "/usr/lib64/qemu", "/usr/lib/qemu")
LOADER_CACHE = Path("/etc/ld.so.cache")
KVM = Path("/dev/kvm")
IS_AN_ID = re.compile(r"[0-9a-f]{12}")
"""The name of a sandbox's group; other groups of a run are of what measures."""
_STATIC = ("-static", "-O2", "-s")
SHARED = ("-shared", "-nostdlib", "-fPIC", "-Os", "-s")


def program(cache: Path, name: str, *options: str) -> Path:
    """A program of programs/, built once. Raises MissingTool, CoppiceError and DiskFull."""
    source = paths.VMM_PROGRAMS / f"{name}.c"
    sources = source.read_bytes() + (paths.VMM_PROGRAMS / "filter.h").read_bytes()
    target = cache / "programs" / hashlib.sha256(sources + repr(options).encode()).hexdigest()
    if not target.exists():
        with half_built(target) as directory:
            run_program("musl-gcc", *options, "-o", directory / name, source)
    return target / name


def needs_preload() -> bool:
    """Whether this QEMU opens guest memory for writing that it only maps privately."""
    return qemu_release() < (8, 2)


@dataclass(frozen=True)
class Jail:
    """What confines one VMM."""

    jailer: Jailer
    user: int | None
    group: LimitedGroup | None
    limits: Limits
    file_bytes: int
    kvm: bool = False
    """Whether it sees /dev/kvm."""
    huge_pages: bool = True
    """Whether the kernel may give it pages of 2 MiB, of which it then often needs a few KiB."""

    def twin(self, identity: Identity) -> Jail:
        """A jail with the same limits for a fork, which has its zygote's kind of pages."""
        return self.jailer.confine(identity, self.limits, self.file_bytes, self.kvm)

    @contextlib.contextmanager
    def starting(
        self, report: int, library: Path | None
    ) -> Iterator[tuple[Sequence[str], Sequence[int]]]:
        """The argv that becomes the VMM's when QEMU's follows, and the descriptors it inherits.

        `library` makes the VMM a zygote.
        """
        jailer = self.jailer
        with contextlib.ExitStack() as opened:
            words, given = [f"report={report}"], [report]
            if jailer.has(Part.PRIVILEGES):
                mounts, network = jailer.root(library, self.kvm)
                words += [f"mounts={mounts}", f"network={network}", f"user={self.user}"]
                given += [mounts, network]
            for word, descriptor in self.entrances(opened):
                words.append(f"{word}={descriptor}")
                given.append(descriptor)
            words += [f"files={self.file_bytes}", f"open={OPEN_FILES}", f"processes={PIDS}"]
            words.append(f"zygote={int(library is not None and jailer.has(Part.PRIVILEGES))}")
            # The filter of an unprivileged zygote would be that of its forks, and refuse them.
            filtered = jailer.has(Part.FILTER) and library is None
            words.append(f"filter={int(filtered)}")
            words.append(f"huge={int(self.huge_pages)}")
            yield [str(jailer.program), *words, "--"], given

    def entrances(self, opened: contextlib.ExitStack) -> Iterator[tuple[str, int]]:
        """What a process needs to enter the group: a word of jail.c and a descriptor for each."""
        if self.group is None:
            return
        entered = [("tasks", each) for each in self.group.open_tasks()]
        born = self.group.open_directory()
        for word, descriptor in [*entered, *([("group", born)] if born is not None else [])]:
            opened.callback(os.close, descriptor)
            yield word, descriptor

    def lend(self, descriptor: int) -> None:
        """Let the VMM open a file again that it has inherited, for writing."""
        if self.user is not None:
            os.fchown(descriptor, self.user, self.user)

    def remove(self) -> None:
        """What is left of it when its VMM has ended; safe to call twice."""
        if self.group is not None:
            self.group.remove()


class Jailer:
    """What the jails of a run share. For any thread."""

    def __init__(self, run: Run, cache: Path, parts: Sequence[Part]) -> None:
        """Raises Unsupported when this host lacks one of the parts, CoppiceError."""
        self._run, self._cache, self._parts = run, cache, parts
        self._lock = threading.Lock()
        self._roots: dict[tuple[Path | None, bool], tuple[int, int]] = {}
        self._groups = LimitedGroups(run) if self.has(Part.GROUP) else None
        self._files: Sequence[Path] = ()
        self.program = program(cache, "jail", *_STATIC)
        names = ["lean", *(["readonly"] if needs_preload() else [])]
        self._preloaded = [program(cache, name, *SHARED) for name in names]
        self._trim = program(cache, "trim", *SHARED)
        place = f"{run.leases.stat().st_dev if run.leases.exists() else 0}:{run.leases}"
        block = int(hashlib.sha256(place.encode()).hexdigest(), 16) % USER_BLOCKS
        self._first_user = USERS + block * NETWORK.num_addresses

    def has(self, part: Part) -> bool:
        return part in self._parts

    def preloaded(self, kvm: bool) -> Sequence[Path]:
        """The libraries that every VMM preloads."""
        return [*self._preloaded, *([self._trim] if kvm else [])]

    def confine(
        self,
        identity: Identity,
        limits: Limits,
        file_bytes: int,
        kvm: bool,
        huge_pages: bool = True,
    ) -> Jail:
        """A jail for a new VMM. Raises SandboxError when the kernel refuses its group."""
        user = None
        if self.has(Part.PRIVILEGES):
            user = self._first_user + int(identity.address) - int(NETWORK.network_address)
        try:
            group = self._groups.make(identity.id, limits) if self._groups else None
        except OSError as error:
            raise SandboxError(f"no control group for {identity.id}: {error}") from error
        return Jail(self, user, group, limits, file_bytes, kvm, huge_pages)

    def adopted(self, id: str) -> Jail:
        """The jail of a VMM that a dead process of this run has started, to remove it."""
        group = self._groups.find(id) if self._groups else None
        return Jail(self, None, group, Limits(0, 0, 0.0), 0)

    def sweep(self, kept: Collection[str]) -> None:
        for name in self._groups.names() if self._groups else ():
            if self._groups and IS_AN_ID.fullmatch(name) and name not in kept:
                self._groups.find(name).remove()

    def root(self, library: Path | None, kvm: bool) -> tuple[int, int]:
        """Descriptors of the mount and network namespaces; `library` is visible in the root."""
        with self._lock:
            if (library, kvm) not in self._roots:
                preloads = [path for path in (library, *self.preloaded(kvm)) if path]
                self._roots[library, kvm] = self._build_root([KVM] if kvm else [], preloads)
            return self._roots[library, kvm]

    def _build_root(self, more: Sequence[Path], preloads: Sequence[Path]) -> tuple[int, int]:
        moved = [path for preload in preloads for path in (preload, _inside(preload))]
        builder = program(self._cache, "jail_root", *_STATIC)
        argv = [builder, "/sys", *_files_of_qemu(bool(more)), *more, "--", *moved]
        with subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(self._run.environment),
        ) as process:
            assert process.stdin and process.stdout and process.stderr
            if process.stdout.read(5) != b"ready":
                why = process.stderr.read().decode(errors="replace").strip()
                raise Unsupported(f"no root for a VMM can be made here: {why}")
            here = Path(f"/proc/{process.pid}/ns")
            made = [os.open(here / kind, os.O_RDONLY | os.O_CLOEXEC) for kind in ("mnt", "net")]
            process.stdin.close()
        return made[0], made[1]

    def try_out(self) -> None:
        """Start QEMU in a jail and let it end. Raises Unsupported with what it lacks."""
        report, answer = os.pipe()
        limits = Limits(MEMORY_BESIDES_GUEST, PIDS, CPUS)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, report)
            group = self._groups.make(f"trial-{os.getpid()}", limits) if self._groups else None
            user = self._first_user if self.has(Part.PRIVILEGES) else None
            jail = Jail(self, user, group, limits, LOG_BYTES)
            stack.callback(jail.remove)
            argv, given = stack.enter_context(jail.starting(answer, None))
            process = subprocess.Popen(
                [*argv, need(PROGRAM), "-version"],
                pass_fds=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(self._run.environment),
            )
            os.close(answer)
            pid = int.from_bytes(os.read(report, 4), "little", signed=True)
            said, _ = process.communicate()
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid > 0 else pid
        if code != 0:
            why = said.decode(errors="replace").strip() or f"it ended with {code}"
            raise Unsupported(f"{PROGRAM} does not run confined: {why}")

    def close(self) -> None:
        for descriptors in self._roots.values():
            for descriptor in descriptors:
                os.close(descriptor)
        self._roots.clear()
        if self._groups:
            self._groups.remove()


def _inside(preload: Path) -> Path:
    """Where a VMM's root has a library to preload."""
    return Path("/preload", preload.name)


def _files_of_qemu(kvm: bool) -> Sequence[Path]:
    """What QEMU opens on its own: its program, libraries, firmware and modules."""
    named = dict.fromkeys([PROGRAM, *([program_of("kvm")] if kvm else [])])
    programs = [Path(need(name)) for name in named]
    listed = run_program("ldd", *programs).decode()
    libraries = [Path(path) for path in re.findall(r"(/\S+) \(0x", listed)]
    others = [*map(Path, (*FIRMWARE, *MODULES)), LOADER_CACHE]
    return [*programs, *dict.fromkeys(libraries), *(each for each in others if each.exists())]


# One jailer for each run of this process.

_jailers: dict[str, tuple[Jailer | None, Image]] = {}
_lock = threading.Lock()


def _open(run: Run, cache: Path) -> tuple[Jailer | None, Confinement]:
    level = chosen()
    if level is Level.NONE:
        return None, Confinement(level, ())
    if level is Level.FULL:
        return _tried(run, cache, ALL), Confinement(level, ALL)
    parts: list[Part] = []
    for part in ALL:
        with contextlib.suppress(CoppiceError, OSError):
            _tried(run, cache, [part]).close()
            parts.append(part)
    return (_tried(run, cache, parts) if parts else None), Confinement(level, parts)


def _tried(run: Run, cache: Path, parts: Sequence[Part]) -> Jailer:
    try:
        jailer = Jailer(run, cache, parts)
        try:
            jailer.try_out()
        except BaseException:
            jailer.close()
            raise
    except (Unsupported, OSError) as error:
        if isinstance(known := typed(error), LimitReached | DiskFull):
            raise known from error
        why = error.args[0] if isinstance(error, Unsupported) else error
        raise Unsupported(
            f"VMMs cannot be confined here: {why}",
            hint=f"run it as root; or accept less, which records report: {VARIABLE}=partial",
        ) from error
    return jailer


def _of(run: Run) -> tuple[Jailer | None, Image]:
    """The run's jailer, and how its VMMs are confined, which goes on the record."""
    with _lock:
        if run.id not in _jailers:
            jailer, confinement = _open(run, cache_directory())
            source = jailer.program if jailer else paths.VMM_PROGRAMS / "jail.c"
            facts = Image("confinement", digest(source), confinement.facts())
            _jailers[run.id] = jailer, facts
            run.at_end.callback(_jailers.pop, run.id)
            if jailer:
                run.at_end.callback(jailer.close)
        use(_jailers[run.id][1])
        return _jailers[run.id]


def examine() -> Confinement:
    """How VMMs would be confined here, tried out. Raises what `jail_for` raises."""
    with trial_run() as run:
        jailer, confinement = _open(run, cache_directory())
        if jailer:
            jailer.close()
        return confinement


def image(run: Run, accelerator: str) -> Image:
    """How VMMs of a run are confined, for its record; what they share is prepared now, as their
    start is timed. Raises Unsupported as `jail_for` does."""
    jailer, found = _of(run)
    if jailer and jailer.has(Part.PRIVILEGES):
        jailer.root(None, accelerator == "kvm")
    return found


def jail_for(
    run: Run,
    identity: Identity,
    shape: Shape,
    file_bytes: int = LOG_BYTES,
    held_bytes: int = 0,
    huge_pages: bool = True,
) -> Jail | None:
    """A jail for a new VMM of a guest of this shape; None where none is wanted.

    `file_bytes` is the largest file that it may write, `held_bytes` what it may write to files that
    lie in memory, which its group is charged for. Raises Unsupported with the remedy where
    this host cannot confine VMMs as the user wants it.
    """
    jailer, _ = _of(run)
    if jailer is None:
        return None
    memory = 2 * shape.memory_mib * MIB + MEMORY_BESIDES_GUEST + held_bytes
    limits = Limits(memory, PIDS, CPUS)
    return jailer.confine(identity, limits, file_bytes, shape.accelerator == "kvm", huge_pages)


def adopted(run: Run, id: str) -> Jail | None:
    """The jail of a VMM that a dead process of this run has started."""
    jailer, _ = _of(run)
    return jailer.adopted(id) if jailer else None


def sweep(run: Run, kept: Collection[str]) -> None:
    """Remove the groups of VMMs that a dead process of this run has started, but for those kept,
    and end what is left in them."""
    jailer, _ = _of(run)
    if jailer:
        jailer.sweep(kept)


def environment(given: Mapping[str, str], jail: Jail | None) -> Mapping[str, str]:
    """The environment of a VMM, with what a jail makes it preload."""
    if jail is None or not jail.jailer.has(Part.PRIVILEGES):
        return given
    preloads = [Path(path) for path in given.get("LD_PRELOAD", "").split(":") if path]
    preloads += jail.jailer.preloaded(jail.kvm)
    return {**given, "LD_PRELOAD": ":".join(str(_inside(path)) for path in preloads)}
