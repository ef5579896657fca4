"""The pool of a template: what runs in it, what is stopped, and what callers get."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from harness.errors import GuestDied, GuestTimeout
from harness.gateway.fleets import template_pool, templates
from harness.gateway.fleets.microvm import MicroVm
from harness.gateway.fleets.microvm_fleet import MicroVmFleet, TemplateMaker
from harness.gateway.fleets.saved_vm import SavedVm
from harness.gateway.fleets.template_pool import TemplatePool
from tests.host.processes import eventually


class FakeVm:
    """No guest: counts what is done to it."""

    def __init__(self) -> None:
        self.id = "fake"
        self.made = time.monotonic()
        self.stopped = self.dead = False
        self.destroyed = self.resumed = 0
        self.error: Exception | None = None

    def alive(self) -> bool:
        return not self.dead

    def stop(self) -> None:
        if self.error:
            raise self.error
        self.stopped = True

    def resume(self) -> None:
        self.stopped = False

    async def resume_on_loop(self) -> None:
        self.stopped = False
        self.resumed += 1

    def destroy(self) -> None:
        self.destroyed += 1


class Makes:
    """Makes fake microVMs; the first may have an error when it is stopped."""

    def __init__(self) -> None:
        self.vms: list[FakeVm] = []
        self.error: Exception | None = None

    def __call__(self, wanted: Callable[[], bool]) -> MicroVm:
        vm = FakeVm()
        vm.error, self.error = self.error, None
        self.vms.append(vm)
        return cast(MicroVm, vm)


@pytest.fixture
def makes() -> Makes:
    return Makes()


@pytest.fixture
def pool(makes: Makes, monkeypatch: pytest.MonkeyPatch) -> Iterator[TemplatePool]:
    """Its sandboxes never count as idle, unless a test says otherwise."""
    monkeypatch.setattr(template_pool, "LOOK_S", 0.01)
    monkeypatch.setattr(template_pool, "REST_S", 1e9)
    pool = TemplatePool(makes, 2, 2)
    try:
        pool.fill()
        yield pool
    finally:
        pool.close()
    assert {vm.destroyed for vm in makes.vms} == {1}, "all but those that callers destroy"


def take(pool: TemplatePool) -> FakeVm:
    vm = asyncio.run(pool.take("own", 30))
    assert isinstance(vm, FakeVm)
    return vm


def test_who_comes_soon_gets_one_that_was_never_stopped(pool: TemplatePool, makes: Makes) -> None:
    vm = take(pool)
    assert (vm.stopped, vm.resumed) == (False, 0)
    eventually(lambda: pool.ready == 2)
    vm.destroy()


def test_what_nobody_claims_is_stopped_and_resumed_for_its_caller(
    pool: TemplatePool, makes: Makes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_pool, "REST_S", 0.0)
    eventually(lambda: pool.ready == 2 and all(vm.stopped for vm in makes.vms))
    vm = take(pool)
    assert (vm.stopped, vm.resumed) == (False, 1)
    eventually(lambda: len(makes.vms) == 3 and makes.vms[2].stopped)
    vm.destroy()


def test_one_that_does_not_stop_is_replaced(
    pool: TemplatePool, makes: Makes, monkeypatch: pytest.MonkeyPatch
) -> None:
    makes.vms[0].error = GuestTimeout("it hangs")
    monkeypatch.setattr(template_pool, "REST_S", 0.0)
    eventually(lambda: len(makes.vms) == 3 and all(vm.stopped for vm in makes.vms[1:]))
    assert makes.vms[0].destroyed == 1
    eventually(lambda: pool.ready == 2)


def test_one_that_has_died_is_not_handed_out(pool: TemplatePool, makes: Makes) -> None:
    newest = makes.vms[1]
    for vm in makes.vms:
        vm.dead = True
    vm = take(pool)
    assert not vm.dead and vm not in (makes.vms[0], newest)
    vm.destroy()


def test_pools_whose_sandboxes_all_die_say_so(pool: TemplatePool, makes: Makes) -> None:
    class Dying(Makes):
        def __call__(self, wanted: Callable[[], bool]) -> MicroVm:
            vm = FakeVm()
            vm.dead = True
            return cast(MicroVm, vm)

    dying = TemplatePool(Dying(), 1, 1)
    with pytest.raises(GuestDied, match="die"):
        take(dying)
    dying.close()


def test_others_are_stopped_also_after_one_that_is_not_destroyed(
    pool: TemplatePool, makes: Makes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = makes.vms[0]
    first.error = GuestTimeout("it hangs")

    def fail() -> None:
        first.destroyed += 1
        raise OSError("its directory is in use")

    monkeypatch.setattr(first, "destroy", fail)
    monkeypatch.setattr(template_pool, "REST_S", 0.0)
    eventually(lambda: len(makes.vms) == 3 and all(vm.stopped for vm in makes.vms[1:]))


@pytest.mark.parametrize(
    ("wanted", "done"), [(True, []), (False, ["rehearse", "rehearse", "rest"])]
)
def test_a_restored_sandbox_that_a_caller_waits_for_rests_nowhere(
    wanted: bool, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where none can be forked, as under KVM."""
    did: list[str] = []
    fleet = object.__new__(MicroVmFleet)
    monkeypatch.setattr(fleet, "_restored", lambda source: FakeVm())
    monkeypatch.setattr(templates, "rehearse", lambda vm, times=4: did.append("rehearse"))
    monkeypatch.setattr("time.sleep", lambda seconds: did.append("rest"))
    fleet.rehearsed(cast(SavedVm, None), lambda: wanted)
    assert did == done


@pytest.mark.parametrize(("closing", "tries"), [(True, 1), (False, 2)])
def test_a_gateway_that_ends_while_it_makes_what_others_are_forked_from_logs_no_error(
    closing: bool, tries: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fleet, began = object.__new__(MicroVmFleet), list[SavedVm]()
    maker = TemplateMaker(fleet, cast(SavedVm, None))

    def zygote(source: SavedVm) -> None:
        began.append(source)
        if closing:
            maker.close()
        raise GuestDied("the VMM went away")

    monkeypatch.setattr(fleet, "accelerator", "tcg", raising=False)
    monkeypatch.setattr(fleet, "zygote", zygote)
    maker.open()
    assert len(began) == tries and len(caplog.records) == (0 if closing else tries)
    maker.close()
    maker.open()
    assert len(began) == tries


def test_making_more_waits_while_a_caller_is_served(
    makes: Makes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_pool, "URGENT_S", 60.0)
    resuming, go_on = threading.Event(), threading.Event()

    async def resume() -> None:
        resuming.set()
        await asyncio.get_running_loop().run_in_executor(None, go_on.wait, 60)

    pool = TemplatePool(makes, 4, 1)
    pool.fill()
    for vm in makes.vms:
        vm.stopped = True
        monkeypatch.setattr(vm, "resume_on_loop", resume)
    taken: list[FakeVm] = []
    taking = threading.Thread(target=lambda: taken.append(take(pool)))
    taking.start()
    assert resuming.wait(60)
    assert (len(makes.vms), pool.ready) == (4, 3)
    go_on.set()
    taking.join()
    eventually(lambda: len(makes.vms) == 5)
    pool.close()
