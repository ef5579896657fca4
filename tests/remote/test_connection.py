"""Connections that fail, each with its own error, and the syntax of addresses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.errors import HostError, HostKeyChanged, UsageError
from harness.remote.ssh_connection import Address, Connection
from tests.remote.server import PORT, THERE, Server


@pytest.fixture
def restored(server: Server) -> Iterator[Server]:
    """The server; its keys and files are restored after the test."""
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


def test_a_changed_host_key_is_refused_with_the_command_that_helps(restored: Server) -> None:
    restored.stop()
    restored.new_key()
    restored.start()
    error = refused()
    assert isinstance(error, HostKeyChanged) and "has changed" in str(error)
    assert "ssh-keygen -R" in str(error)


def test_an_unknown_host_key_is_not_accepted_silently(restored: Server) -> None:
    (restored.directory / "known").write_text("", encoding="utf-8")
    assert "connect once by hand" in str(refused())
    assert (restored.directory / "known").read_text(encoding="utf-8") == ""


def test_a_host_that_denies_access(restored: Server) -> None:
    (restored.directory / "key.pub").write_text("", encoding="utf-8")
    assert "denied access" in str(refused())


def test_a_host_without_a_running_sshd(restored: Server) -> None:
    restored.stop()
    assert "cannot reach" in str(refused())


def test_a_host_name_that_does_not_resolve() -> None:
    with pytest.raises(HostError, match=r"cannot resolve|cannot reach"):
        Connection(Address.parse("ssh://nowhere.invalid")).__enter__()


def test_a_closed_connection_leaves_no_directory(server: Server) -> None:
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
def test_invalid_addresses(text: str) -> None:
    with pytest.raises(UsageError):
        Address.parse(text)
