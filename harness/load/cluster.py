"""A cluster of dask.distributed whose members may stop answering: every question has a bound.

dask itself waits for an answer without end. A worker that is stopped would hold up the storm then,
and the end of the storm, too.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from distributed import Client, Security

from harness import extras
from harness.errors import HostError
from harness.load import generator_side

CONNECT_S = 10.0
ANSWER_S = 5.0
"""How long a worker may take to answer a question that costs it no time."""
SCHEDULER_S = 30.0
"""How long the scheduler may take, which all workers keep busy."""
HINT = "--scheduler tcp://HOST:8786   (started there with: dask scheduler)"
ALIKE = ("python", "dask", "distributed", "msgpack", "cloudpickle")
"""What must have the same version everywhere, and of Python the minor one."""


class Cluster:
    """The workers of the scheduler at `where`."""

    def __init__(self, client: Client, where: str) -> None:
        self.client, self.where = client, where

    def workers(self) -> Sequence[str]:
        """The addresses of the workers that are left. HostError if the scheduler is silent."""
        try:
            return sorted(self.client.nthreads(callback_timeout=SCHEDULER_S))
        except TimeoutError as error:
            raise HostError(
                f"the scheduler at {self.where} has not answered for {SCHEDULER_S:g} s", hint=HINT
            ) from error

    def ask(self, function: Callable[..., Any], *args: object, of: str) -> Any:
        """What a function returns on one worker; None if it is gone or does not answer."""
        return self._asked(function, args, [of]).get(of)

    def tell(self, function: Callable[..., None], *args: object, to: Collection[str]) -> None:
        """Carry out a function on those of these workers that are left and answer. It has reached
        all others when one does not answer."""
        with contextlib.suppress(HostError):
            self._asked(function, args, to)

    def _asked(
        self, function: Callable[..., Any], args: Sequence[object], to: Collection[str]
    ) -> Mapping[str, Any]:
        left = [address for address in self.workers() if address in to]
        if not left:
            return {}
        try:
            answers: Mapping[str, Any] = self.client.run(
                function, *args, workers=left, on_error="ignore", callback_timeout=ANSWER_S
            )
        except TimeoutError:
            return {}
        return answers


@contextlib.contextmanager
def connected(scheduler: str) -> Iterator[Cluster]:
    """A cluster that exists. Raises HostError where no scheduler answers."""
    try:
        security = _security(scheduler)
        # dask would try again and again where nothing listens.
        parts = urlsplit(scheduler)
        socket.create_connection((parts.hostname, parts.port), CONNECT_S).close()
        client = Client(scheduler, timeout=CONNECT_S, set_as_default=False, security=security)
    except (OSError, ValueError, TypeError) as error:  # TimeoutError is an OSError
        raise HostError(
            f"no scheduler of dask answers at {scheduler}: {error}", hint=HINT
        ) from error
    with client:
        yield Cluster(client, scheduler)


def _security(scheduler: str) -> Security | None:
    """The certificates that dask's settings name, where the scheduler's address needs them."""
    if not scheduler.startswith("tls:"):
        return None
    security = Security()
    if security.get_connection_args("client").get("ssl_context") is None:
        raise HostError(
            f"no certificates are known for {scheduler}",
            hint="dask's settings name them: distributed.comm.tls.ca-file and "
            "distributed.comm.tls.client.cert and .key",
        )
    return security


def require_alike(cluster: Cluster, addresses: Sequence[str]) -> None:
    """Raise HostError unless scheduler and workers have this harness, and the same packages."""
    client, where = cluster.client, cluster.where
    try:
        versions = client.sync(client._get_versions, callback_timeout=CONNECT_S)
        _require_versions(versions, where, addresses)
        known = {where: client.run_on_scheduler(generator_side.harness, callback_timeout=CONNECT_S)}
        known |= client.run(
            generator_side.harness, workers=list(addresses), callback_timeout=CONNECT_S
        )
    except TimeoutError as error:
        raise HostError(
            f"a worker of the cluster at {where} does not answer", hint="restart its workers"
        ) from error
    except Exception as error:  # dask raises a bare Exception for what it cannot load there
        if "ModuleNotFoundError" not in f"{error!r}":
            raise
        raise HostError(
            f"the harness cannot be imported by the cluster at {where}: {error}",
            hint=f"{extras.install_command('lab')}   (for the scheduler and for each worker)",
        ) from error
    mine = generator_side.harness()
    for address, theirs in known.items():
        if theirs != mine:
            raise HostError(
                f"{address} has the harness {theirs}, and this side {mine}",
                hint="install the same commit there",
            )


def _require_versions(versions: Mapping[str, Any], where: str, addresses: Sequence[str]) -> None:
    ours = versions["client"]["packages"]
    for address in (where, *addresses):
        found = versions["scheduler"] if address == where else versions["workers"].get(address)
        if found is None:
            raise HostError(f"{address} does not answer", hint="restart this worker")
        for name in ALIKE:
            there = found["packages"].get(name)
            if _release(name, there) != _release(name, ours.get(name)):
                raise HostError(
                    f"{address} has {name} {there}, and this side {ours.get(name)}",
                    hint=f"{extras.install_command('lab')}   (there, at the same versions)",
                )


def _release(package: str, version: str | None) -> str | None:
    """What must be equal of a version; Python's patch releases are alike."""
    if package == "python" and version:
        return ".".join(version.split(".")[:2])
    return version
