"""Packages for tests, as pip leaves them: a module, and the metadata that registers it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from harness.host.run import VARIABLE
from tests.host.processes import ROOT


def install(site: Path, name: str, group: str, entry: str, files: Mapping[str, str]) -> None:
    """Put a distribution into a directory of packages; `entry` is NAME = VALUE."""
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text, encoding="utf-8")
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n", encoding="utf-8")


def loaded_by_rigs(site: Path, *modules: str) -> dict[str, str]:
    """The environment in which the pytest of `coppice run` loads these modules as plugins: it takes
    none from pytest's own variables."""
    for module in modules:
        name = module.replace(".", "-")
        install(site, name, "pytest11", f"{name} = {module}", {})
    given = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT), *filter(None, [given])])}


def coppice_with(site: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `coppice` with these packages beside ours."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return subprocess.run(
        [sys.executable, "-P", "-m", "harness", *arguments],
        env={**environment, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])},
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
