"""The wheel of this checkout, installed in an environment that cannot see the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Installed:
    """`coppice` and pytest as the wheel's users have them; both run in `home`."""

    bin: Path
    home: Path

    def __call__(
        self, program: str, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return subprocess.run(
            [self.bin / "python", self.bin / program, *arguments],
            cwd=self.home,
            env={**kept, "COPPICE_RUNTIME": os.environ.get("COPPICE_RUNTIME", ""), **environment},
            capture_output=True,
            text=True,
            timeout=280,
            encoding="utf-8",
        )


def build(source: Path, into: Path) -> Path:
    """The wheel of a project, built with this environment's packages."""
    argv = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    subprocess.run(
        [*argv, "--outdir", str(into), str(source)],
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    return max(into.glob("*.whl"), key=lambda wheel: wheel.stat().st_mtime_ns)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def environment(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Installed]:
    """Makes an environment with these wheels. It uses this environment's packages as dependencies,
    but not its .pth files, which name the checkout."""

    def make(*wheels: Path) -> Installed:
        directory = tmp_path_factory.mktemp("environment")
        venv.create(directory, with_pip=False, symlinks=True)
        (site,) = directory.glob("lib/python*/site-packages")
        dependencies = next(path for path in sys.path if path.endswith("site-packages"))
        (site / "dependencies.pth").write_text(f"{dependencies}\n", encoding="utf-8")
        python = directory / "bin" / "python"
        for wheel in wheels:
            argv = [sys.executable, "-m", "pip", "--python", str(python), "--no-input", "install"]
            subprocess.run(
                [*argv, "--no-deps", "--quiet", str(wheel)], check=True, capture_output=True
            )
        (directory / "bin" / "pytest").write_text(
            "import pytest\nraise SystemExit(pytest.main())\n", encoding="utf-8"
        )
        home = directory / "home"
        home.mkdir()
        return Installed(directory / "bin", home)

    return make


@pytest.fixture(scope="session")
def installed(wheel: Path, environment: Callable[..., Installed]) -> Installed:
    """An environment with our wheel only."""
    return environment(wheel)
