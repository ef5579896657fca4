from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from harness import cli
from harness.errors import UsageError
from harness.site.builder import serve
from tests.site.conftest import Made


def test_the_command_builds_and_names_what_it_left_out(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["site", "--results", str(made.results), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert f"13 records in {out}/index.html" in said.out
    assert said.err.count("skipped: ") == 2
    assert (out / "index.html").is_file()


def test_a_missing_results_directory_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["site", "--results", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert cli.main(argv) == 64
    assert "is not a directory of records" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_serve_shows_the_site_on_loopback_and_ends_on_a_signal(
    number: signal.Signals, code: int, made: Made, tmp_path: Path
) -> None:
    argv = [
        sys.executable,
        "-m",
        "harness.cli",
        "site",
        "--results",
        str(made.results),
        "--out",
        str(tmp_path / "out"),
        "--serve",
        "--port",
        "0",
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stdout
        address = next(line for line in process.stdout if line.startswith("http")).split()[0]
        try:
            assert address.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(address, timeout=120) as answer:
                assert b"Coppice" in answer.read()
        finally:
            process.send_signal(number)
        assert process.wait(timeout=120) == code


def test_a_taken_port_is_one_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve.server(tmp_path, port)
