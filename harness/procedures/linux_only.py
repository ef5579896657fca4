"""A guard for rigs that measure Linux network namespaces."""

from __future__ import annotations

import sys

from harness.errors import Unsupported
from harness.network.requirements import linux_only


def require_linux() -> None:
    """Raise Unsupported on a system without network namespaces."""
    if not sys.platform.startswith("linux"):
        need = linux_only()
        raise Unsupported(f"this needs {need.what}; {need.detail}", hint=need.remedy)
