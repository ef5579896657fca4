"""A foreign address in a network of its own: as far away as a test wants, and with a certificate
that need not fit. tests/endpoints/test_foreign_services.py measures a gateway there."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from contextlib import closing

import pytest

from harness.host.run import Run
from tests.stand_ins.elsewhere import FAR, elsewhere, gateway_elsewhere
from tests.stand_ins.server import standing_in


def test_a_certificate_of_another_address_does_not_fit(run: Run) -> None:
    pytest.importorskip("uvicorn")
    options = ("--substrate", "noop", "--tls")
    with elsewhere(run) as there, gateway_elsewhere(run, there, *options, host="0.0.0.0") as served:
        trusting = ssl.create_default_context(cafile=served.certificate)

        def connect() -> None:
            https = http.client.HTTPSConnection(FAR, served.port, timeout=30, context=trusting)
            with closing(https) as connection:
                connection.connect()

        with pytest.raises(ssl.SSLCertVerificationError, match=FAR):
            there.from_near(connect)


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
        with pytest.raises(OSError):  # there is no other way to it
            socket.create_connection((FAR, port), timeout=0.5).close()
