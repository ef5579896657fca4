"""A gateway with the hostile fleet: `python -m harness.gateway.hostile --state DIRECTORY`."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.gateway import server
from harness.gateway.hostile.fleet import HostileFleet
from harness.gateway.options import Options


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    options = Options(
        port=arguments.port,
        state=arguments.state,
        on_ready=lambda address, _: print(f"{address} ", flush=True),
    )
    server.serve(options, HostileFleet())


if __name__ == "__main__":
    main()
