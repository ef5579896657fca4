"""The command `coppice`, whose gateway gets SIGTERM while it starts: it has opened its network and
made its fleet, and has not looked at its predecessor's sandboxes yet."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from harness import cli
from harness.gateway.fleets import setup

_made = setup.container_fleet


def _interrupted(*arguments: Any) -> Any:
    fleet = _made(*arguments)
    os.kill(os.getpid(), signal.SIGTERM)
    return fleet


if __name__ == "__main__":
    setattr(setup, "container_fleet", _interrupted)  # noqa: B010  (of another type)
    sys.exit(cli.main())
