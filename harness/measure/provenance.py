"""The origin of a record: code, command, tools and time."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from harness import __version__, paths, strict_json
from harness.errors import UsageError
from harness.measure import record
from harness.measure.system import System

PACKAGES = ("pytest", "pytest-benchmark", "psutil")
_PREFIX = "COPPICE_"
_VERSION_OPTION = {
    "bhyve": None,
    "bhyvectl": None,
    "ip": "-V",
    "jail": None,
    "netperf": "-V",
    "netserver": "-V",
    "pfctl": None,
    "tc": "-V",
}
"""Version options of programs without --version; None: it has none and must not be run."""


def utc_now(now: datetime | None = None) -> str:
    """The time in the record's format: "2026-11-23T16:55:25.123456Z"."""
    return f"{(now or datetime.now(UTC)).astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def _git(checkout: Path, *arguments: str) -> str | None:
    # A hook of another repository may have set GIT_DIR, which must not be used here.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # Root may measure in another user's checkout, which git refuses unless it is declared safe.
    argv = ["git", "-C", str(checkout), "-c", f"safe.directory={checkout}", *arguments]
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=clean | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            encoding="utf-8",
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def git(
    checkout: Path | None = paths.CHECKOUT, apart: Collection[str] = ("results",)
) -> record.Git:
    """Commit and dirty flag of a checkout; both None without git or outside of a checkout.

    Untracked files make it dirty, ignored files do not. Directories in `apart` never do: a run
    writes its record there, which must not make the next run suspect.
    """
    if checkout is None:  # installed, or copied to this host
        if paths.BUILT_FROM.exists():
            return record.Git(**strict_json.loads(paths.BUILT_FROM.read_text(encoding="utf-8")))
        return record.Git(None, None)
    checkout = checkout.resolve()
    top = _git(checkout, "rev-parse", "--show-toplevel")
    if top is None or Path(top) != checkout:  # perhaps unpacked inside another repository
        return record.Git(None, None)
    outside = [f":(exclude,top){directory}" for directory in apart]
    changes = _git(
        checkout, "status", "--porcelain", "--untracked-files=normal", "--", ".", *outside
    )
    return record.Git(
        commit=_git(checkout, "rev-parse", "--verify", "--quiet", "HEAD"),
        dirty=None if changes is None else bool(changes),
    )


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The COPPICE_* variables, with apparent passwords replaced by "(left out)"."""
    found = os.environ if variables is None else variables
    return {
        name: _without_secret(name, value)
        for name, value in sorted(found.items())
        if name.startswith(_PREFIX)
    }


def _without_secret(name: str, value: str) -> str:
    if re.search(r"(TOKEN|SECRET|PASSWORD|PASSPHRASE|_KEY)$", name):
        return "(left out)"
    return re.sub(r"(://[^/@:\s]+):[^/@\s]*@", r"\1:(left out)@", value)


def command(task: str) -> record.Command:
    """The exact command, interpreter included; `task` is the command that repeats it.

    Paths in this checkout are written as `./...` and those in the user's home as `~/...`, so that
    records do not disclose their locations.
    """
    argv = tuple(_from_home(_from_checkout(argument)) for argument in sys.orig_argv)
    env = {name: _from_home(value) for name, value in environment().items()}
    return record.Command(argv, _from_home(_from_checkout(str(Path.cwd()))), env, task)


def _from_home(text: str) -> str:
    home = str(Path.home())
    return text if home == "/" else re.sub(rf"(^|=){re.escape(home)}(?=/|$)", r"\1~", text)


def _from_checkout(text: str) -> str:
    return re.sub(rf"{re.escape(str(paths.DATA))}(?=/|$)", ".", text)


def tools(programs: Iterable[str] = (), system: System | None = None) -> dict[str, str]:
    """Versions by name: of Python, of the measuring packages, and of these programs.

    A program's version is the first line that it prints for its version option, or "unknown".
    Programs that are not installed are omitted.
    """
    system = system or System()
    found = {"python": f"{platform.python_implementation()} {platform.python_version()}"}
    found |= {name: importlib.metadata.version(name) for name in PACKAGES}
    for program in programs:
        version = _version(program, system)
        if version is not None:
            found[Path(program).name] = version
    return found


def _version(program: str, system: System) -> str | None:
    if shutil.which(program) is None:
        return None
    name = Path(program).name
    option = _VERSION_OPTION.get(name, "--version")
    output = system.run([program, option]) if option else None
    lines = [line.strip() for line in (output or "").splitlines() if line.strip()]
    return lines[0] if lines else "unknown"


def rig(
    id: str, path: Path, root: Path = paths.DATA, distribution: record.Distribution | None = None
) -> record.Rig:
    """A rig's id, its file's path from `root`, and the digest. UsageError when it is unreadable."""
    try:
        sha256 = record.digest(path)
    except OSError as error:
        raise UsageError(
            f"cannot read the file {path} of the rig {id}: {error.strerror}"
        ) from error
    resolved, root = path.resolve(), root.resolve()
    inside = resolved.relative_to(root) if resolved.is_relative_to(root) else Path(resolved.name)
    return record.Rig(id, inside.as_posix(), sha256, distribution)


def patches(checkout: Path = paths.DATA, applied: Collection[str] = ()) -> tuple[record.Patch, ...]:
    """Every patches/*/*.{diff,patch}; `applied` names those in the running kernel.

    UsageError when `applied` names an unknown patch.
    """
    found = sorted(
        path for suffix in ("diff", "patch") for path in checkout.glob(f"patches/*/*.{suffix}")
    )
    names = {path.relative_to(checkout).as_posix(): path for path in found}
    unknown = sorted(set(applied) - set(names))
    if unknown:
        raise UsageError(
            f"unknown patch: {', '.join(unknown)}",
            hint=f"known patches: {', '.join(names) or 'none'}",
        )
    return tuple(
        record.Patch(name, record.digest(path), name in applied) for name, path in names.items()
    )


def harness() -> record.Harness:
    """The version of this harness, which names the commit that runs.

    A checkout's version is of the day it was installed: its commit is asked for anew.
    """
    found = git()
    if paths.CHECKOUT is None or found.commit is None:
        return record.Harness(__version__)
    release = re.sub(r"\.dev\d+", ".dev0", __version__.partition("+")[0])
    return record.Harness(f"{release}+g{found.commit[:9]}{'.dirty' if found.dirty else ''}")
