"""The plugin's options without their prefix: `pytest rigs --profile full`.

Only a checkout's conftest.py loads this. Installed, these names may belong to other plugins.
"""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from harness import option_types

SHORT: dict[str, dict[str, Any]] = {
    "profile": {"choices": ("smoke", "quick", "full")},
    "results": {"type": option_types.path},
    "set": {"action": "append", "metavar": "NAME=VALUE"},
    "substrate": {"action": "append"},
    "tier": {"action": "append"},
    "concurrency": {"action": "append", "type": option_types.number(1)},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("coppice")
    for name, attributes in SHORT.items():
        group.addoption(
            f"--{name}",
            dest=f"coppice_{name}",
            default=argparse.SUPPRESS,
            help=f"--coppice-{name}",
            **attributes,
        )
