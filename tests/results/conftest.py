"""Skips these tests if the site's packages, which they need, are not installed."""

from __future__ import annotations

import pytest

pytest.importorskip("pandas", reason="the site's packages are not installed: pip install .")
