"""Finds rigs: our own, and those that other packages register.

The entry point group `coppice.rigs` names a package or a directory; every test_*.py in it with a
`RIG = RigInfo(...)` is a rig.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

from harness import paths
from harness.errors import CoppiceError, PluginError, UsageError
from harness.rig.info import RigInfo
from harness.rig.tasks import Task
from harness.sandbox import protocol
from harness.sandbox.protocol import Role, Substrate, Template

GROUP = "coppice.rigs"
OURS = protocol.OURS
"""The distribution that holds this module."""


@dataclass(frozen=True)
class Rig:
    """A rig: its file, its description, and the distribution that contains it."""

    path: Path
    info: RigInfo
    distribution: str = OURS


@dataclass(frozen=True)
class Discovered:
    """`found` maps ids to rigs; `broken` maps files or packages that do not load to the reason."""

    found: Mapping[str, Rig]
    broken: Mapping[str, str]


def _places(entry: EntryPoint) -> Sequence[Path]:
    """The directories that an entry point names: a package's, or a Path."""
    loaded = entry.load()
    if isinstance(loaded, ModuleType):
        return [Path(place) for place in loaded.__path__]
    return [Path(loaded)]


def directories(broken: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """Every directory of rigs with the distribution that registers it; our own first.

    Our own needs no registration, so a checkout works before it is installed. Packages that do not
    load are added to `broken`.
    """
    yield OURS, paths.RIGS
    for entry in importlib.metadata.entry_points(group=GROUP):
        distribution = entry.dist.name if entry.dist else entry.name
        if distribution != OURS:
            try:
                places = _places(entry)
            except Exception as error:  # another package may fail in any way
                broken[distribution] = f"its rigs do not load: {error!r}"
                continue
            yield from ((distribution, place) for place in places)


def discover() -> Discovered:
    """Every rig that can be loaded. Of two with the same id the first counts, so that no package
    replaces a built-in rig."""
    found: dict[str, Rig] = {}
    broken: dict[str, str] = {}
    for distribution, directory in directories(broken):
        for path in sorted(directory.glob("test_*.py")):
            try:
                info = load(path, distribution)
            except Exception as error:
                if distribution == OURS:
                    raise
                broken[str(path)] = f"does not load: {error!r}"
                continue
            if info.id in found:
                first = found[info.id]
                why = f"its id is taken: {info.id} is a rig of {first.distribution}, {first.path}"
                if distribution == OURS:
                    raise CoppiceError(f"{path}: {why}")
                broken[str(path)] = why
                continue
            found[info.id] = Rig(path, info, distribution)
    return Discovered(found, broken)


def load(path: Path, distribution: str = OURS) -> RigInfo:
    """The description of the rig in a file. Raises UsageError if it has none."""
    name = f"rigs.{path.stem}" if distribution == OURS else f"rigs_of_{distribution}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses resolve their annotations there
    spec.loader.exec_module(module)
    info = getattr(module, "RIG", None)
    if not isinstance(info, RigInfo):
        raise UsageError(f"{path} has no RIG = RigInfo(...)")
    return info


def substrates_of(info: RigInfo, named: Sequence[str] = ()) -> Sequence[Substrate[Template]]:
    """The registered substrates that a rig measures, by name.

    `named` are those that the user requested, which may include reference substrates. Substrates
    that do not load are left out; `coppice doctor` says why.
    """
    if info.wants is None:
        return []
    found = []
    for name in sorted(protocol.registered()):
        try:
            substrate = protocol.load(name)
        except Exception:
            continue
        requested = name in named if named else substrate.role is not Role.REFERENCE
        if requested and _wants(info, substrate):
            found.append(substrate)
    return found


def _wants(info: RigInfo, substrate: Substrate[Template]) -> bool:
    assert info.wants
    try:
        return bool(info.wants(substrate))
    except Exception as error:  # another package may fail in any way
        raise PluginError(
            f"the rig {info.id} cannot say whether it measures {substrate.name}: {error!r}"
        ) from error


def table(rigs: Mapping[str, Rig]) -> Sequence[Task]:
    """Every task of our own rigs: those that a rig declares, and `bench:ID` for each."""
    tasks: list[Task] = []
    for id, rig in rigs.items():
        if rig.distribution == OURS:
            declared = rig.info.tasks()
            if not any(task.name == f"bench:{id}" for task in declared):
                tasks.append(Task(f"bench:{id}", id, rig.info.title, {}))
            tasks += declared
    return tasks
