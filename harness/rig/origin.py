"""The code that measured: the distribution, version and commit of a rig's file."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from harness import paths, strict_json
from harness.measure import provenance
from harness.measure.record import Distribution, Git, Series
from harness.rig import discovery
from harness.sandbox import protocol


@dataclass(frozen=True)
class Origin:
    """`root` is the directory that the rig's path is relative to, `git` the state of its code.

    `distribution` is None for our own rigs, whose version is the harness's.
    """

    root: Path
    git: Git
    distribution: Distribution | None = None


def of(file: Path) -> Origin:
    """The origin of a rig's file: our own, another package's, or the user's."""
    file = file.resolve()
    if file.is_relative_to(paths.RIGS.resolve()):
        return Origin(paths.DATA, provenance.git())
    for name, directory in discovery.directories({}):
        if name != discovery.OURS and file.is_relative_to(directory.resolve()):
            found = importlib.metadata.distribution(name)
            return Origin(directory.parent, _git(found), Distribution(found.name, found.version))
    root = _top(file.parent)
    return Origin(root or file.parent, provenance.git(root) if root else Git(None, None))


def packages(series: Sequence[Series]) -> dict[str, str]:
    """Versions of the packages, other than ours, whose substrates these series measured."""
    measured = {found.dimensions.get("substrate") for found in series}
    return {
        entry.dist.name: entry.dist.version
        for entry in importlib.metadata.entry_points(group=protocol.GROUP)
        if entry.name in measured and entry.dist and entry.dist.name != discovery.OURS
    }


def _git(distribution: importlib.metadata.Distribution) -> Git:
    """The commit that a distribution was installed from; Git(None, None) if unknown.

    PEP 610: pip records where a package came from, unless that was an index.
    """
    try:
        source = strict_json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        source = {}
    if commit := source.get("vcs_info", {}).get("commit_id"):
        return Git(str(commit), False)
    editable = source.get("dir_info", {}).get("editable")
    top = _top(Path(unquote(urlsplit(source["url"]).path))) if editable else None
    return provenance.git(top) if top else Git(None, None)


def _top(directory: Path) -> Path | None:
    """The top directory of the git checkout that contains a directory; None outside of one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), "-c", "safe.directory=*", "rev-parse", "--show-toplevel"],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    except OSError:
        return None
    return Path(done.stdout.strip()) if done.returncode == 0 else None
