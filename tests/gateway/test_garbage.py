"""What the gateway keeps the collector of cyclic garbage from searching."""

from __future__ import annotations

import gc
import weakref

from harness.gateway import garbage


class _Cycle:
    def __init__(self) -> None:
        self.itself = self


def _searched(part: _Cycle) -> bool:
    return any(each is part for each in gc.get_objects())


def test_what_a_started_gateway_consists_of_is_not_searched() -> None:
    thresholds = gc.get_threshold()
    part = _Cycle()
    with garbage.searched_seldom():
        assert gc.get_threshold() == garbage.THRESHOLDS
        garbage.leave_out_what_is_there()
        assert not _searched(part)
    assert gc.get_threshold() == thresholds
    assert _searched(part)


def test_later_garbage_is_still_collected() -> None:
    with garbage.searched_seldom():
        garbage.leave_out_what_is_there()
        later = weakref.ref(_Cycle())
        gc.collect()
        assert later() is None
