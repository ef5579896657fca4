"""Options with which a gateway could not take over its predecessor's sandboxes: it is refused
before it touches them, and the message names the option that helps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import StateError, UsageError
from harness.gateway.fleets.setup import outside_of
from harness.gateway.options import Options
from harness.gateway.predecessor import note, predecessor
from harness.gateway.sandboxes.store import FILE, Store, StoredSandbox, opened
from harness.host.run import STATE, Run

RUNNING = StoredSandbox("i1", "key", "base", "running", 1.5, 2.5, identity={"port": "port1"})
HELD = dataclasses.replace(RUNNING, id="i2", state="paused", held=True, saved="/saved")
PAUSED = dataclasses.replace(HELD, id="i3", held=False)
OCI = Options(substrate="oci")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(state: Path, tmp_path: Path) -> Iterator[Store]:
    """That of a gateway with containers that was killed; its run waits."""
    directory = tmp_path / "runtime" / "run"
    directory.mkdir(parents=True)
    (directory / STATE).write_text(str(state), encoding="utf-8")
    with opened(state / FILE) as store:
        note(store, OCI, Run("run", directory, directory.parent / "leases"))
        yield store


@pytest.mark.parametrize(
    ("options", "stored", "hint"),
    [
        (OCI, (RUNNING, HELD, PAUSED), ""),
        (Options(), (RUNNING,), "--substrate oci"),
        (Options(), (HELD,), "--substrate oci"),
        (Options(), (PAUSED,), ""),
        (dataclasses.replace(OCI, network=False), (RUNNING,), "without --no-network"),
        (dataclasses.replace(OCI, network=False), (HELD, PAUSED), ""),
    ],
)
def test_other_options_are_refused_while_sandboxes_would_be_lost(
    store: Store,
    state: Path,
    tmp_path: Path,
    options: Options,
    stored: tuple[StoredSandbox, ...],
    hint: str,
) -> None:
    for sandbox in stored:
        store.put(sandbox)
    if not hint:
        found = predecessor(store, state, options, tmp_path / "runtime")
        assert found.has_network is (RUNNING in stored)
        return
    with pytest.raises(UsageError, match=hint):
        predecessor(store, state, options, tmp_path / "runtime")
    assert len(store.sandboxes()) == len(stored)


def test_other_places_are_refused_while_sandboxes_run(
    store: Store, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / "runtime"
    store.put(HELD)
    predecessor(store, state, OCI, tmp_path / "other")
    store.put(RUNNING)
    with pytest.raises(UsageError, match=f"COPPICE_RUNTIME={runtime}"):
        predecessor(store, state, OCI, tmp_path / "other")
    monkeypatch.setenv("COPPICE_DISKS", str(tmp_path / "disks"))
    with pytest.raises(UsageError, match="COPPICE_DISKS="):
        predecessor(store, state, OCI, runtime)
    (runtime / "run" / STATE).unlink()  # as after a reboot: nothing runs any more
    assert predecessor(store, state, OCI, runtime).running == []
    assert predecessor(store, state, OCI, tmp_path / "other").running == []


def test_sandboxes_without_a_network_need_a_gateway_without(
    store: Store, state: Path, tmp_path: Path
) -> None:
    store.put(dataclasses.replace(RUNNING, identity={"port": None}))
    found = predecessor(store, state, OCI, tmp_path / "runtime")
    found.require_network(given=False)
    with pytest.raises(UsageError, match="--no-network"):
        found.require_network(given=True)


@pytest.mark.parametrize("value", ["relative", "../..", "\0"])
def test_a_place_that_is_no_path_is_damage(
    store: Store, state: Path, tmp_path: Path, value: str
) -> None:
    store.put(RUNNING)
    store.note("runtime", value)
    with pytest.raises(StateError, match="has lost its runtime"):
        predecessor(store, state, OCI, tmp_path / "runtime")


@pytest.mark.parametrize(
    ("outside", "resolver", "message"),
    [
        ("/nothing", None, "no outside network"),
        ("999999999", None, "no outside network"),
        ("bad\0path", None, "no outside network"),
        (__file__, None, "not a network namespace"),
        ("/dev/null", None, "not a network namespace"),
        ("/proc/self/ns/mnt", None, "not a network namespace"),
        ("/proc/self/ns/net", "127.0.0.1", "--resolver"),
        (None, "192.0.2.1", "--resolver needs --outside"),
    ],
)
def test_an_outside_network_is_checked_before_anything_begins(
    outside: str | None, resolver: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        outside_of(Options(outside=outside, resolver=resolver))
