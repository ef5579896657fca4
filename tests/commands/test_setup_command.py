"""`coppice setup`: what is missing, and what it could not install."""

from __future__ import annotations

import pytest

from harness.cli import main
from harness.setup import packages


def test_if_nothing_is_missing_it_succeeds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packages, "missing", list)
    assert main(["setup"]) == 0
    assert capsys.readouterr().out == "Nothing is missing.\n"


@pytest.mark.parametrize("left", [[], ["runc"]])
def test_what_it_could_not_install_is_an_error_with_the_command(
    left: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packages, "missing", lambda: ["runc", "nftables"])
    monkeypatch.setattr(packages, "install", lambda: left)
    assert main(["setup"]) == (69 if left else 0)
    shown = capsys.readouterr()
    assert "runc nftables" in shown.out
    assert ("sudo apt-get install runc" in shown.err) is bool(left)


def test_a_dry_run_installs_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packages, "missing", lambda: ["runc"])
    monkeypatch.setattr(packages, "install", lambda: pytest.fail("a dry run must not install"))
    assert main(["setup", "--dry-run"]) == 69
    assert "sudo apt-get install runc" in capsys.readouterr().err
