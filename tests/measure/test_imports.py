"""Running rigs imports nothing that only charts, pages and several generators need."""

from __future__ import annotations

import subprocess
import sys

FORBIDDEN = (
    "dask", "distributed", "jinja2", "jsonschema", "markdown_it", "matplotlib", "numpy", "pandas",
    "scipy", "tornado",
)  # fmt: skip
# Imported only where several processes generate load; they need the extra `lab`.
SEVERAL = (
    "harness.load.cluster", "harness.load.generators", "harness.load.generator_process",
    "harness.load.loopback_tls",
)  # fmt: skip

# Told by a finder, not by sys.modules: an import that fails, or is tried in vain, is seen as well.
CHILD = """
import importlib, pkgutil, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN or name.startswith(SITE):
            print("imported", name, flush=True)
            raise ImportError(name)

FORBIDDEN = sys.argv[1].split(",")
SITE = ("harness.site", "harness.results")
sys.meta_path.insert(0, Watch())
for name in sys.argv[2:]:
    importlib.import_module(name)
"""
NAMES = """
import pkgutil, sys, harness
for one in pkgutil.walk_packages(harness.__path__, "harness."):
    site = one.name.startswith(("harness.site", "harness.results"))
    if not site and one.name not in sys.argv[1:] and not one.name.endswith("__main__"):
        print(one.name)
"""


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, encoding="utf-8"
    )


def test_running_rigs_imports_nothing_of_the_site() -> None:
    listed = _python(NAMES, *SEVERAL)
    names = listed.stdout.split()
    assert {"harness.measure.machine", "harness.measure.validity", "harness.cli"} <= set(names)
    done = _python(CHILD, ",".join(FORBIDDEN), *names)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_forbidden_imports_are_detected() -> None:
    assert "imported pandas" in _python(CHILD, ",".join(FORBIDDEN), "pandas").stdout
    assert "imported harness.site" in _python(CHILD, ",".join(FORBIDDEN), "harness.site").stdout
    assert (
        "imported harness.results" in _python(CHILD, ",".join(FORBIDDEN), "harness.results").stdout
    )
