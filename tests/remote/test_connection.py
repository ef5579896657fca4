"""Connections that do not come about, each with its own reason; and what an address may be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.errors import HostError, HostKeyChanged, UsageError
from harness.remote.ssh_connection import Address, Connection
from tests.remote.server import PORT, THERE, Server


@pytest.fixture
def restored(server: Server) -> Iterator[Server]:
    """The server, whose keys and files are as they were afterwards."""
    names = ("host_key", "host_key.pub", "known", "key.pub")
    kept = {server.directory / name: (server.directory / name).read_bytes() for name in names}
    yield server
    server.stop()
    for path, content in kept.items():
        path.write_bytes(content)
        path.chmod(0o600)


def refused() -> HostError:
    with pytest.raises(HostError) as error, Connection(Address.parse(THERE)):
        pass
    assert error.value.exit_code == 68
    return error.value


def test_a_host_key_that_changed_ends_it_and_says_what_to_do(restored: Server) -> None:
    restored.stop()
    restored.new_key()
    restored.start()
    error = refused()
    assert isinstance(error, HostKeyChanged) and "another key" in str(error)
    assert "ssh-keygen -R" in str(error)


def test_a_key_that_nobody_knows_is_not_taken_by_itself(restored: Server) -> None:
    (restored.directory / "known").write_text("")
    assert "connect once by hand" in str(refused())
    assert (restored.directory / "known").read_text() == ""


def test_a_host_that_does_not_let_us_in(restored: Server) -> None:
    (restored.directory / "key.pub").write_text("")
    assert "does not let us in" in str(refused())


def test_a_host_where_nobody_listens(restored: Server) -> None:
    restored.stop()
    assert "cannot be reached" in str(refused())


def test_a_host_that_is_not_there() -> None:
    with pytest.raises(HostError, match=r"no host is called|cannot be reached"):
        Connection(Address.parse("ssh://nowhere.invalid")).__enter__()


def test_nothing_is_left_of_a_connection(server: Server) -> None:
    with Connection(Address.parse(THERE)) as connection:
        directory = connection._directory
        assert directory.exists()
    assert not directory.exists()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://honor", Address("honor")),
        ("ssh://root@honor", Address("honor", "root")),
        ("ssh://root@10.1.2.3:2222/", Address("10.1.2.3", "root", 2222)),
        ("ssh://[fd00::1]:22", Address("fd00::1", None, 22)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["honor", "ssh://", "http://honor", "ssh://honor/path", "ssh://honor:port", "ssh://a:b@honor",
     "ssh://-oProxyCommand=x", "ssh://-l@honor", f"ssh://honor:{PORT}{PORT}"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        Address.parse(text)
