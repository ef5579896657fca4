"""An environment for each SDK: made once in the cache, from versions and hashes that stand here.

A Python SDK is `python-VERSION.txt`, which pip installs with its hashes; the JavaScript SDK is
`javascript/`, which npm installs from its lock. Where packages come from is the machine's affair.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import paths
from harness.errors import CoppiceError, Unsupported
from harness.host.locks import half_built
from harness.host.process import need, run
from harness.measure.record import digest

HERE = paths.COMPAT
JAVASCRIPT = HERE / "javascript"
PYTHON = HERE / "python"
"""What runs in the environments; not imported here."""


@dataclass(frozen=True)
class Sdk:
    """`name` is `python-VERSION` or `javascript-VERSION`."""

    name: str
    language: str
    version: str

    @property
    def insists_on_tls(self) -> bool:
        """Whether its code interpreter knows nothing but https to a sandbox's own name."""
        return self.language == "python" and _numbers(self.version) < (2, 29)

    def command(self, cache: Path) -> Sequence[str]:
        """What runs the probe with this SDK; its environment is made first.

        Raises Unsupported with what pip or npm said, or MissingTool.
        """
        if self.language == "python":
            return (str(self.python(cache)), str(PYTHON / "probe"))
        return ("node", str(_javascript(cache) / "probe.mjs"))

    def python(self, cache: Path) -> Path:
        """The interpreter of a Python SDK's environment."""
        lock = HERE / f"{self.name}.txt"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        target = cache / "sdks" / f"{self.name}-{version}-{digest(lock)[:16]}"
        if not target.exists():
            with half_built(target) as directory:
                # Programs in it name the directory, so it is asked for by its modules alone.
                venv.create(directory / "own", with_pip=True, symlinks=True)
                _made(
                    f"the SDK {self.name}", str(directory / "own/bin/python"), "-m", "pip",
                    "install", "-q", "--require-hashes", "--no-deps",
                    "--only-binary=:all:", "-r", lock,
                )  # fmt: skip
        return target / "own/bin/python"


def _javascript(cache: Path) -> Path:
    whole = hashlib.sha256()
    for one in sorted(JAVASCRIPT.iterdir()):
        whole.update(one.read_bytes())
    target = cache / "sdks" / f"javascript-{whole.hexdigest()[:16]}"
    if not target.exists():
        for program in ("node", "npm"):
            need(program)
        with half_built(target) as directory:
            for one in JAVASCRIPT.iterdir():
                shutil.copy(one, directory)
            _made(
                "the JavaScript SDK", "npm", "ci", "--silent", "--no-audit", "--no-fund",
                "--ignore-scripts", "--prefix", directory,
            )  # fmt: skip
    return target


def _made(what: str, program: str, *words: str | Path) -> None:
    try:
        run(program, *words)
    except CoppiceError as error:
        raise Unsupported(f"{what} could not be installed: {error}") from error


def python_sdks() -> Sequence[Sdk]:
    """Every version that there is a lock for, oldest first."""
    found = [re.fullmatch(r"python-([\d.]+)\.txt", one.name) for one in HERE.iterdir()]
    versions = sorted((one[1] for one in found if one), key=_numbers)
    return [Sdk(f"python-{version}", "python", version) for version in versions]


def newest() -> Sdk:
    return python_sdks()[-1]


def javascript_sdk() -> Sdk:
    packages = json.loads((JAVASCRIPT / "package-lock.json").read_text())["packages"]
    version: str = packages["node_modules/e2b"]["version"]
    return Sdk(f"javascript-{version}", "javascript", version)


def all_sdks() -> Sequence[Sdk]:
    return [*python_sdks(), javascript_sdk()]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(one) for one in version.split("."))
