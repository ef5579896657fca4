"""Whose turn it is when callers of several keys wait."""

from __future__ import annotations

import copy

import pytest

from harness.gateway.fleets.key_turns import KeyTurns


def turns(asked: str) -> KeyTurns[str]:
    waiting: KeyTurns[str] = KeyTurns()
    for number, key in enumerate(asked):
        waiting.add(key, f"{key}{number}")
    return waiting


def served(waiting: KeyTurns[str]) -> list[str]:
    order: list[str] = []
    while (caller := waiting.next()) is not None:
        order.append(caller)
    assert not waiting
    return order


@pytest.mark.parametrize(
    ("asked", "order"),
    [
        ("", []),
        ("aaa", ["a0", "a1", "a2"]),
        ("aaab", ["a0", "b3", "a1", "a2"]),
        ("aabbbc", ["a0", "b2", "c5", "a1", "b3", "b4"]),
    ],
)
def test_keys_take_turns(asked: str, order: list[str]) -> None:
    assert served(turns(asked)) == order


def test_a_key_that_asks_again_is_behind_those_that_wait() -> None:
    waiting = turns("ab")
    assert waiting.next() == "a0"
    waiting.add("a", "again")
    assert served(waiting) == ["b1", "again"]


def test_who_leaves_has_no_turn() -> None:
    waiting = turns("aab")
    waiting.remove("b", "b2")
    waiting.remove("a", "a0")
    waiting.remove("a", "a0")
    waiting.remove("unknown", "a1")
    assert served(waiting) == ["a1"]


@pytest.mark.parametrize("asked", ["", "a", "aaaa", "bbbb", "aabbbc", "abcabcabc"])
@pytest.mark.parametrize("key", ["a", "b", "new"])
def test_the_place_of_another_caller_is_known(asked: str, key: str) -> None:
    """It may be served sooner by one turn of each key, but never later."""
    waiting = turns(asked)
    ahead = waiting.ahead(key)
    tried = copy.deepcopy(waiting)
    tried.add(key, "another")
    place = served(tried).index("another")
    assert place <= ahead <= place + len(set(asked) - {key})
    if key not in asked:
        assert place == ahead
