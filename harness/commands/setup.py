"""Install the distribution packages that rigs and the gateway need; needs root.

In a checkout, bin/setup also creates .venv. Without root, and on systems other than Debian and
Ubuntu, the command only lists what to install.
"""

from __future__ import annotations

import argparse

from harness.errors import MissingTool
from harness.host import package_names
from harness.setup import packages

HELP = "install the distribution packages that rigs need"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only list what is missing")


def main(options: argparse.Namespace) -> int:
    """0 if nothing is missing. Raises MissingTool with the packages that were not installed."""
    missing = packages.missing()
    if not missing:
        print("Nothing is missing.")
        return 0
    print(f"Missing on {package_names.release().name}: {' '.join(missing)}", flush=True)
    left = missing if options.dry_run else packages.install()
    if left:
        names = [name for name in left if name != packages.THE_LISTS]
        raise MissingTool(
            f"not installed: {' '.join(left)}",
            hint=f"sudo apt-get install {' '.join(names)}" if names else "sudo apt-get update",
        )
    return 0
