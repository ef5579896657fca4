"""Who may get a secret: this host's own processes, and others only over an encrypted connection."""

from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.load.offering import require_address, require_private


@pytest.mark.parametrize(
    "scheduler", [None, "tls://far.example.org:8786", "tcp://127.0.0.1:8786", "tcp://[::1]:8786",
                  "tcp://localhost:8786"],
)  # fmt: skip
def test_a_key_stays_here_or_is_encrypted(scheduler: str | None) -> None:
    require_private(scheduler, "the key")


@pytest.mark.parametrize(
    "scheduler",
    ["tcp://far.example.org:8786", "tcp://10.0.0.1:8786", "10.0.0.1:8786", "ws://10.0.0.1:1", "x"],
)
def test_a_key_does_not_leave_in_clear(scheduler: str) -> None:
    with pytest.raises(UsageError, match="without encryption") as refused:
        require_private(scheduler, "the key")
    assert refused.value.hint and "tls://" in refused.value.hint


@pytest.mark.parametrize("scheduler", [None, "tcp://127.0.0.1:8786", "tls://far.example.org:1"])
def test_an_address_of_a_scheduler_is_taken(scheduler: str | None) -> None:
    require_address(scheduler)


@pytest.mark.parametrize(
    "scheduler",
    ["", "foo", "127.0.0.1:8786", "tcp://127.0.0.1", "tcp://:8786", "tcp://[::1:1", "tcp://h:x",
     "tcp://h:99999", "http://h:8786", "tcp://h:1/a", "tcp://me@h:1"],
)  # fmt: skip
def test_what_is_no_address_of_a_scheduler_is_refused(scheduler: str) -> None:
    with pytest.raises(UsageError, match="no address of a scheduler"):
        require_address(scheduler)
