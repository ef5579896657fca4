"""An environment for each SDK, built once in the cache from pinned versions and hashes.

A Python SDK is `python-VERSION.txt`, which pip installs with hashes; the JavaScript SDK is
`javascript/`, which npm installs from its lock file. Package indexes are configured by the host.
"""

from __future__ import annotations

import contextlib
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
from harness.host.cache import entry
from harness.host.process import need, run
from harness.measure.record import digest

HERE = paths.COMPAT
JAVASCRIPT = HERE / "javascript"
PYTHON = HERE / "python"
"""Programs that run in the environments; not imported here."""

SYNC, ASYNC = "sync", "async"
"""The two kinds of classes of a Python SDK."""


@dataclass(frozen=True)
class Sdk:
    """`name` is `python-VERSION` or `javascript-VERSION`."""

    name: str
    language: str
    version: str

    @property
    def requires_tls(self) -> bool:
        """Whether its code interpreter accepts only HTTPS to the host name of a sandbox."""
        return self.language == "python" and _numbers(self.version) < (2, 29)

    def command(self, cache: Path, classes: str = SYNC) -> Sequence[str]:
        """The command that runs the probe with these classes of the SDK; builds the environment
        first.

        Raises Unsupported with the message of pip or npm, or MissingTool.
        """
        if self.language == "python":
            return (str(self.python(cache)), str(PYTHON / "probe"), classes)
        return ("node", str(_javascript(self._place(cache)) / "probe.mjs"))

    @property
    def classes(self) -> Sequence[str]:
        """The kinds of classes that the SDK has."""
        return (SYNC, ASYNC) if self.language == "python" else ("",)

    def is_installed(self, cache: Path) -> bool:
        """Whether its environment is in the cache."""
        return self._place(cache).is_dir()

    def _place(self, cache: Path) -> Path:
        """Where its environment is or will be."""
        if self.language == "python":
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            lock = digest(HERE / f"{self.name}.txt")
            return cache / "sdks" / f"{self.name}-{version}-{lock[:16]}"
        inputs = hashlib.sha256()
        for path in sorted(JAVASCRIPT.iterdir()):
            inputs.update(path.read_bytes())
        return cache / "sdks" / f"javascript-{inputs.hexdigest()[:16]}"

    def python(self, cache: Path) -> Path:
        """The Python interpreter of an SDK's environment."""
        lock, target = HERE / f"{self.name}.txt", self._place(cache)

        def fill(directory: Path) -> None:
            # Its scripts contain the temporary path, so use `python -m` only.
            own = directory / "own"
            venv.create(own, with_pip=True, symlinks=True)
            _install(
                f"the SDK {self.name}", str(own / "bin/python"), "-m", "pip",
                "install", "-q", "--require-hashes", "--no-deps",
                "--only-binary=:all:", "-r", lock,
            )  # fmt: skip
            # All of it is compiled now: what a use would write later would break the seal. A file
            # that does not compile is not loaded either.
            with contextlib.suppress(CoppiceError):
                run(str(own / "bin/python"), "-m", "compileall", "-qq", own / "lib")

        return entry(target, fill) / "own/bin/python"


def _javascript(target: Path) -> Path:
    def fill(directory: Path) -> None:
        for program in ("node", "npm"):
            need(program)
        for path in JAVASCRIPT.iterdir():
            shutil.copy(path, directory)
        _install(
            "the JavaScript SDK", "npm", "ci", "--silent", "--no-audit", "--no-fund",
            "--ignore-scripts", "--prefix", directory,
        )  # fmt: skip

    return entry(target, fill)


def _install(what: str, program: str, *arguments: str | Path) -> None:
    try:
        run(program, *arguments)
    except CoppiceError as error:
        raise Unsupported(f"{what} could not be installed: {error}") from error


def python_sdks() -> Sequence[Sdk]:
    """All versions with a lock file, the oldest first."""
    matches = [re.fullmatch(r"python-([\d.]+)\.txt", path.name) for path in HERE.iterdir()]
    versions = sorted((match[1] for match in matches if match), key=_numbers)
    return [Sdk(f"python-{version}", "python", version) for version in versions]


def newest() -> Sdk:
    return python_sdks()[-1]


def javascript_sdk() -> Sdk:
    packages = json.loads((JAVASCRIPT / "package-lock.json").read_text(encoding="utf-8"))[
        "packages"
    ]
    version: str = packages["node_modules/e2b"]["version"]
    return Sdk(f"javascript-{version}", "javascript", version)


def all_sdks() -> Sequence[Sdk]:
    return [*python_sdks(), javascript_sdk()]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
