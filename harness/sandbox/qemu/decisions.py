"""What trials of KVM have shown, kept in the cache: one decision for each host, kernel, QEMU,
image, processor model and kernel command line.

That a guest answers under KVM stays so until one of these changes. That none does may pass: such a
decision expires, soon if the host was only busy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness import strict_json
from harness.host.locks import locking

HOUR_S, BUSY_S = 3600.0, 300.0
CPUINFO = Path("/proc/cpuinfo")
_HOST = ("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags")


class Outcome(StrEnum):
    """What a trial of KVM came to."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """A VMM ended, its guest stands still, or had processor time enough for many boots."""
    BUSY = "busy"
    """Its guest had too little processor time to tell."""


LIFETIME_S: Mapping[Outcome, float] = {
    Outcome.ANSWERED: float("inf"),
    Outcome.REFUSED: HOUR_S,
    Outcome.BUSY: BUSY_S,
}


@dataclass(frozen=True)
class Decision:
    """`cpu` is the model with which it was tried last, `tried` when, in Unix time; `of` is what it
    holds for."""

    outcome: Outcome
    reason: str
    cpu: str
    tried: float
    of: Mapping[str, str]

    def left_s(self) -> float:
        """Seconds for which it still holds; a clock that was set back does not prolong it."""
        age = time.time() - self.tried
        left = LIFETIME_S[self.outcome] - age
        return left if age >= 0 or self.outcome is Outcome.ANSWERED else 0.0


def host() -> str:
    """A digest of this host's processor: a cache may move to another host."""
    text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    found = [re.search(rf"^{name}\s*:(.*)$", text, re.MULTILINE) for name in _HOST]
    facts = [match[1].strip() if match else "" for match in found]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def kept(cache: Path, of: Mapping[str, str]) -> Decision | None:
    """The decision that holds, if there is one."""
    found = _read(_file(cache, of))
    return found if found and found.left_s() > 0 else None


def decide(
    cache: Path, of: Mapping[str, str], again: bool, decision: Callable[[], Decision]
) -> Decision:
    """The decision that holds, else a new one, which is kept. Only one process tries at a time: two
    trials would disturb each other. `again` asks for a new one."""
    begun = time.time()
    if not again and (found := kept(cache, of)):
        return found
    directory = _directory(cache)
    directory.mkdir(parents=True, exist_ok=True)
    with locking(directory):
        found = kept(cache, of)
        if found and (not again or found.tried >= begun):  # another process was faster
            return found
        made = decision()
        _write(_file(cache, of), made)
        return made


def latest(cache: Path, of: Mapping[str, str]) -> Decision | None:
    """The newest decision with these facts, whatever its others, even if it holds no more."""
    found = [one for one in _all(cache) if of.items() <= one.of.items()]
    return max(found, key=lambda one: one.tried, default=None)


def forget(cache: Path) -> None:
    """Drop those against KVM, so that each is tried anew, and what cannot be read."""
    for path in _directory(cache).glob("*.json"):
        found = _read(path)
        if found is None or found.outcome is not Outcome.ANSWERED:
            path.unlink(missing_ok=True)


def _all(cache: Path) -> Iterator[Decision]:
    for path in _directory(cache).glob("*.json"):
        if found := _read(path):
            yield found


def _directory(cache: Path) -> Path:
    return cache / "accelerators"


def _file(cache: Path, of: Mapping[str, str]) -> Path:
    name = hashlib.sha256(json.dumps(dict(of), sort_keys=True).encode()).hexdigest()
    return _directory(cache) / f"{name}.json"


def _read(path: Path) -> Decision | None:
    """None for what is not there or damaged: it is then tried again."""
    try:
        data = strict_json.loads(path.read_bytes())
        return Decision(
            Outcome(data["outcome"]), str(data["reason"]), str(data["cpu"]), float(data["tried"]),
            {str(key): str(value) for key, value in data["of"].items()},
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(path: Path, decision: Decision) -> None:
    """A cache that is full or cannot be written costs another trial, no more."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        try:
            new.write_text(json.dumps(dataclasses.asdict(decision), indent=1), encoding="utf-8")
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
