"""A plugin of pytest's for rigs that tests run: it waits less for the host to come to rest.

What is measured then is no fleet at rest; these tests look at everything else.
"""

from __future__ import annotations

from functools import partial

from harness.measure import rest_linux

WINDOW_S = 0.5
LIMIT_S = 3.0

rest_linux.watch = partial(rest_linux.watch, seconds=WINDOW_S)
rest_linux.settle = partial(rest_linux.settle, limit_s=LIMIT_S)
