"""A gateway as a foreign address: in a network of its own, with and without TLS, and far away."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from contextlib import closing

import pytest

from harness.gateway.gateway_process import GatewayProcess
from harness.host.run import Run
from tests.stand_ins.elsewhere import FAR, elsewhere, gateway_elsewhere
from tests.stand_ins.server import standing_in

pytest.importorskip("uvicorn")


def status(served: GatewayProcess, tls: ssl.SSLContext | None = None) -> int:
    """What the gateway's health is answered with, at its foreign address."""
    plain = http.client.HTTPConnection(FAR, served.port, timeout=30)
    chosen = http.client.HTTPSConnection(FAR, served.port, timeout=30, context=tls)
    with closing(chosen if tls else plain) as connection:
        connection.request("GET", "/health")
        return connection.getresponse().status


def test_a_gateway_elsewhere_is_reached_from_the_near_network_only(run: Run) -> None:
    with elsewhere(run) as there, gateway_elsewhere(run, there, "--substrate", "noop") as served:
        assert served.address == f"http://{FAR}:{served.port}"
        assert there.from_near(lambda: status(served)) == 200
        created = there.from_near(
            lambda: served.request(
                "POST", "/sandboxes", {"templateID": "base"}, {"Content-Type": "application/json"}
            )
        )
        assert created[0] == 201, created
        with pytest.raises(OSError):
            socket.create_connection((FAR, served.port), timeout=0.5).close()


@pytest.mark.parametrize("host, fits", [(FAR, True), ("0.0.0.0", False)])
def test_a_certificate_fits_the_address_that_the_gateway_was_given(
    run: Run, host: str, fits: bool
) -> None:
    options = ("--substrate", "noop", "--tls")
    with elsewhere(run) as there, gateway_elsewhere(run, there, *options, host=host) as served:
        trusting = ssl.create_default_context(cafile=served.certificate)
        if fits:
            assert there.from_near(lambda: status(served, trusting)) == 200
        else:
            with pytest.raises(ssl.SSLCertVerificationError, match=FAR):
                there.from_near(lambda: status(served, trusting))


def test_each_exchange_over_a_slow_line_takes_a_round_trip(run: Run) -> None:
    def connected() -> float:
        start = time.perf_counter()
        socket.create_connection((FAR, port), timeout=30).close()
        return time.perf_counter() - start

    with (
        elsewhere(run, one_way_s=0.03) as there,
        standing_in(host=FAR, network=there.far) as service,
    ):
        port = int(service.address.rpartition(":")[2])
        there.from_near(connected)  # which also resolves the address
        assert there.from_near(connected) >= 0.06
