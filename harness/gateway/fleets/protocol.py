"""What the API needs of a substrate: templates, running sandboxes, saving and resuming."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from harness.gateway.envd.client import Envd


class RunningSandbox(Protocol):
    """A sandbox that runs. `location` is what `adopt` needs to find it again."""

    id: str

    @property
    def location(self) -> Mapping[str, Any]: ...

    @property
    def pid(self) -> int: ...

    def alive(self) -> bool: ...

    async def connect(self) -> Envd: ...

    def destroy(self) -> None: ...


class SandboxFleet(Protocol):
    """Makes sandboxes from templates and from saved ones. All methods but `take` may block."""

    memory_mib: int
    disk_mib: int
    saves_memory: bool
    """Whether `save` writes running sandboxes with their memory; otherwise their files only."""
    saving_limits: str
    """Why the other kind cannot be saved, for the caller."""

    def templates(self) -> Sequence[str]: ...

    def require_room(self, count: int) -> None:
        """DiskFull unless the disks of so many further sandboxes find room."""

    async def take(self, template: str, key_id: str, timeout_s: float) -> RunningSandbox:
        """A resumed sandbox of a template, for a caller of this key; keys that wait take turns.
        GuestTimeout when none is ready in time."""

    def stop(self, sandbox: RunningSandbox) -> None:
        """Stop it, so that it can be saved.

        Raises GuestTimeout, GuestDied or WrongAnswer for a sandbox that hangs or is gone: it can be
        neither saved nor continued. After other errors it runs on.
        """

    def save(self, sandbox: RunningSandbox, directory: Path) -> None:
        """Save a stopped sandbox to a directory that does not exist yet. It stays stopped."""

    def run_on(self, sandbox: RunningSandbox) -> None:
        """Continue a stopped sandbox. SandboxError when it does not answer in time."""

    def resume(self, directory: Path, names: Mapping[str, Any] | None) -> RunningSandbox:
        """A sandbox from a saved one; `names` is the identity whose host name it keeps."""

    def adopt(self, location: Mapping[str, Any]) -> RunningSandbox:
        """A sandbox that a killed gateway left running; SandboxError when it is gone."""

    def sweep(self) -> int:
        """End orphaned sandboxes, after the last `adopt`; the number of them."""

    def set_network_rules(self, sandbox: RunningSandbox, rules: Mapping[str, Any]) -> None:
        """Apply E2B's network rules from now on."""

    def ready(self) -> Mapping[str, int]:
        """Sandboxes that are ready in the pool, by template."""
