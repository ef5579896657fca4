"""Frames and figures need the packages of the site."""

from __future__ import annotations

import pytest

pytest.importorskip("pandas", reason="the site's packages are not installed: pip install .")
