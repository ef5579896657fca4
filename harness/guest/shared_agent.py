"""The agent for sandboxes on their host's kernel: the guest's agent without the code that sets
clocks, host names, NICs or the kernel's random state (see agent/shared/self.c)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness.guest.image import AGENT, COMPILE
from harness.host.cache import entry
from harness.host.process import run
from harness.measure.record import Image, digest

SHARED = AGENT / "shared"
GUEST_ONLY = ("doorbell.c", "self.c", "system.c")
"""Parts that need a kernel of their own; `SHARED` replaces them."""


def build(cache: Path) -> Path:
    """The path of the agent, from the cache or compiled now. Raises MissingTool and DiskFull."""
    own = (path for path in sorted(AGENT.glob("*.c")) if path.name not in GUEST_ONLY)
    sources = [*own, *sorted(SHARED.glob("*.c"))]
    whole = hashlib.sha256(" ".join(COMPILE).encode())
    for path in (*sources, *sorted(AGENT.glob("*.h"))):
        whole.update(path.name.encode() + b"\0" + path.read_bytes())
    target = cache / "agents" / whole.hexdigest()

    def compile(directory: Path) -> None:
        run("musl-gcc", *COMPILE, "-o", directory / "agent", *sources)

    return entry(target, compile) / "agent"


def as_record(program: Path) -> Image:
    """The agent as an image of a record."""
    return Image("agent", digest(program), {"sources_sha256": program.parent.name})
