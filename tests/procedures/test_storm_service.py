"""What a storm asks of a service first: a busy or broken one is measured all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.endpoints import event_loop
from harness.endpoints.settings import Endpoint
from harness.errors import EndpointFailed
from harness.measure.collector import Collector
from harness.measure.endpoint_facts import EndpointFacts
from harness.procedures import api_latency, storm_series, storm_service
from harness.procedures.api_latency import Inside
from tests.stand_ins.server import Standing, standing_in


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(api_latency, "LONGEST_S", 0.01)


def surveyed(service: Standing, into: Collector, key: str) -> tuple[Inside | None, EndpointFacts]:
    endpoint = Endpoint(
        "stand-in", "stand-in", service.address, key, template="base", sandbox_url=service.address
    )
    with storm_service.begun(endpoint, "a-run", print, into) as journal:
        return event_loop.run(storm_service.surveyed(endpoint, journal, into))


def test_what_sandboxes_have_is_known_before_the_storm() -> None:
    into = Collector("open")
    with standing_in() as service:
        inside, told = surveyed(service, into, service.key)
        assert inside and "sh" in inside.paths and told.address == service.address
        assert not into.doubts and not service.alive


@pytest.mark.parametrize("behaviour", ["busy", "other-json", "half-way-header"])
def test_a_service_that_gives_no_sandbox_leaves_a_doubt(behaviour: str) -> None:
    into = Collector("open")
    with standing_in(behaviour) as service:
        inside, told = surveyed(service, into, service.key)
    assert inside is None and told.address == service.address
    assert into.doubts[0].startswith("before the storm no sandbox could be looked into: ")


def test_a_key_that_is_refused_is_an_error() -> None:
    with standing_in() as service, pytest.raises(EndpointFailed, match="key"):
        surveyed(service, Collector("open"), "e2b_" + "0" * 40)


def test_the_series_shown_is_the_first_with_samples() -> None:
    into = Collector("open")
    into.add("usable", "s", [], [(0, "it has no bash", None)], program="bash")
    with pytest.raises(AssertionError, match="it has no bash"):
        storm_series.shown(into.series)
    into.add("usable", "s", [0.5], program="sh")
    assert storm_series.shown(into.series).dimensions["program"] == "sh"
