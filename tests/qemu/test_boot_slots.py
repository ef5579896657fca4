"""Boots take turns."""

from __future__ import annotations

import threading

from harness.sandbox.qemu.boot_slots import BootSlots


def test_no_more_at_once_than_there_are_turns() -> None:
    slots = BootSlots(2)
    lock, inside, most = threading.Lock(), 0, 0
    rest, two = threading.Event(), threading.Barrier(2)

    def boot() -> None:
        nonlocal inside, most
        end = slots.acquire()
        with lock:
            inside += 1
            most = max(most, inside)
        two.wait(60)  # two are inside at once
        rest.wait(0.02)  # and a third would come meanwhile
        with lock:
            inside -= 1
        end()

    threads = [threading.Thread(target=boot) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, inside) == (2, 0)


def test_a_turn_that_is_ended_twice_is_given_back_once() -> None:
    slots = BootSlots(1)
    end = slots.acquire()
    end()
    end()
    slots.acquire()
    taken = threading.Event()

    def acquire() -> None:
        slots.acquire()
        taken.set()

    threading.Thread(target=acquire, daemon=True).start()
    assert not taken.wait(0.1), "two turns were handed out of one"
