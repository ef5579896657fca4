"""Pages are tried in the environments that the tests of the package make."""

from __future__ import annotations

from tests.package.conftest import environment, installed, wheel

__all__ = ["environment", "installed", "wheel"]
