"""A results directory with every kind of made-up run, and the site built of it, once."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("jinja2", reason="the site's packages are not installed: pip install .")

from harness.measure import record
from harness.site.builder.build import build
from tests.site import factory

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records that are committed, without those that runs of this checkout's owner added."""
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z", "--", "results"]
    listed = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    if listed.returncode:
        pytest.skip("this is no git checkout: which records belong to it is not known")
    directory = tmp_path_factory.mktemp("kept")
    for name in listed.stdout.split("\0")[:-1]:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, directory / name)
    return directory / "results"


@pytest.fixture(scope="session")
def real(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of the committed records."""
    out = tmp_path_factory.mktemp("real") / "out"
    assert build(kept, out).problems == ()
    return out


@dataclass(frozen=True)
class Made:
    results: Path
    out: Path

    def pages(self) -> list[Path]:
        return sorted(self.out.rglob("*.html"))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    directory = tmp_path_factory.mktemp("site")
    results = directory / "results"
    factory.whole(results)
    (results / factory.HOST / "20261103T000000Z-00000000.cold-start.run.json").write_text(
        '{"schema": "coppice.run/9"}', encoding="utf-8"
    )
    (results / factory.HOST / "20261104T000000Z-00000000.cold-start.run.json").write_text(
        '{"schema": "coppice.ru', encoding="utf-8"
    )
    build(results, directory / "out")
    return Made(results, directory / "out")


@pytest.fixture(scope="session")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A site of two machines on which each series was measured several times."""
    directory = tmp_path_factory.mktemp("repeated")
    for host in (factory.machine(), factory.machine("other-host")):
        for day in range(1, 5):
            for substrate in ("qemu", "noop"):
                one = factory.cold_start("full", day=day, n=12, host=host, substrate=substrate)
                record.write(one, directory / "results")
    build(directory / "results", directory / "out")
    return Made(directory / "results", directory / "out")


def over_time(repeated: Made) -> list[Path]:
    """Pages that a site has only once there are several runs or machines: one of each kind."""
    found = [
        sorted(repeated.out.glob(pattern))[0]
        for pattern in (
            "history/*.cold-start.html",
            f"history/{factory.HOST}.html",
            "changes/*.html",
            "changes.html",
            "side-by-side/*.html",
            "side-by-side.html",
            "runs/*/20261101*.html",
        )
    ]
    assert "superseded" in found[-1].read_text(encoding="utf-8")
    return found
