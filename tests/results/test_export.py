"""`coppice export --csv` and `--parquet`: selection, contents and errors."""

from __future__ import annotations

import dataclasses
import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from harness import results
from harness.cli import main
from harness.measure import record
from harness.measure.record import Failure
from tests.site import factory


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    for tier in ("full", "durable-pool"):
        for day in (1, 2):
            record.write(factory.cold_start(tier, day=day), tmp_path / "r")
    return tmp_path / "r"


def _csv(capsys: pytest.CaptureFixture[str], *arguments: str) -> pandas.DataFrame:
    assert main(["export", "--csv", *arguments]) == 0
    out = capsys.readouterr().out
    return pandas.read_csv(io.StringIO(out))


def test_csv_has_every_row_with_its_digits(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame, found = results.load(kept), _csv(capsys, "--results", str(kept))
    assert list(found.columns) == list(frame.columns)
    assert found["value"].tolist() == frame["value"].tolist()
    assert found["index"].tolist() == frame["index"].tolist()
    assert found["started"].unique().tolist() == [
        "2026-11-01T12:00:00.000000Z", "2026-11-02T12:00:00.000000Z",
    ]  # fmt: skip


def test_what_is_no_file_is_written_to_and_not_replaced(kept: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.csv"
    export = ["export", "--csv", "--results", str(kept)]
    assert main([*export, "--out", str(whole)]) == 0
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    copy = tmp_path / "copy.csv"
    with copy.open("wb") as into, subprocess.Popen(["cat", pipe], stdout=into):
        assert main([*export, "--out", str(pipe)]) == 0
    assert copy.read_bytes() == whole.read_bytes()
    assert pipe.is_fifo()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "named.csv")
    assert main([*export, "--out", str(link)]) == 0
    assert link.is_symlink() and (tmp_path / "named.csv").read_bytes() == whole.read_bytes()
    if os.geteuid() == 0:
        device = tmp_path / "null"
        os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        assert main([*export, "--out", str(device)]) == 0
        assert device.is_char_device()


def test_selectors_are_those_of_compare(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--results", str(kept)]
    path = next(record.find(kept))
    whole = _csv(capsys, *where)
    assert len(_csv(capsys, "tier=full", *where)) == (whole["tier"] == "full").sum()
    assert _csv(capsys, str(path), *where)["run_id"].unique().tolist() == [path.name[:25]]
    assert len(_csv(capsys, path.name[:25], *where)) == len(_csv(capsys, str(path), *where))
    # Several selectors add up; series that two of them select are exported once.
    both = _csv(capsys, "tier=full", "tier=durable-pool", "rig=cold-start", *where)
    assert len(both) == len(whole)
    filtered = _csv(capsys, "tier=full", "--metric", "first-reply", *where)
    assert set(filtered["metric"]) == {"first-reply"} and set(filtered["tier"]) == {"full"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--csv", "tier=none"], 64, "no record matches"),
        (["--csv", "--metric", "none"], 64, "no series in"),
        (["--parquet"], 64, "add --out FILE"),
        (["--ro-crate", "tier=full"], 64, "selectors work with --csv"),
        (["--csv", "--out", "no/such/directory/x.csv"], 73, "No such file or directory"),
    ],
)
def test_requests_that_cannot_be_exported_say_why(
    kept: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert main(["export", *arguments, "--results", str(kept)]) == code
    assert message in capsys.readouterr().err


def test_records_that_cannot_be_read_are_named(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    next(record.find(kept)).write_text('{"schema": "coppice.run/9"}', encoding="utf-8")
    out = tmp_path / "x.csv"
    assert main(["export", "--csv", "--results", str(kept), "--out", str(out)]) == 0
    output = capsys.readouterr()
    assert "skipped: " in output.err and "coppice.run/9" in output.err
    assert output.out.startswith(f"{out}: ") and output.out.endswith("rows of 3 runs\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r", "x.csv"]


def test_a_cell_that_a_spreadsheet_would_compute_is_quoted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = factory.cold_start("full", failures=[Failure(0, "=cmd()")])
    record.write(dataclasses.replace(base, profile="@made-up"), tmp_path)
    found = _csv(capsys, "--results", str(tmp_path))
    assert set(found["failure"].dropna()) == {"'=cmd()"} and set(found["profile"]) == {"'@made-up"}


def test_parquet_keeps_values_and_types(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow", reason="pip install -e '.[parquet]'")
    out = tmp_path / "x.parquet"
    argv = ["export", "--parquet", "--results", str(kept), "--out", str(out)]
    assert main(argv) == 0
    frame, found = results.load(kept), pandas.read_parquet(out)
    assert found["value"].equals(frame["value"])
    assert (found.dtypes.astype(str) == frame.dtypes.astype(str)).all()
    first = out.read_bytes()
    assert main(argv) == 0
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    ("what", "library", "extra"), [("--parquet", "pyarrow", "parquet"), ("--csv", "pandas", "")]
)
def test_without_the_library_the_command_that_installs_it_is_shown(
    kept: Path, what: str, library: str, extra: str
) -> None:
    # In a separate process, which has not loaded the library.
    code = (
        f"import sys; sys.modules[{library!r}] = None; from harness.cli import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    argv = ["export", what, "--results", str(kept), "--out", str(kept / "x")]
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 69, done.stderr
    assert f"needs the Python package {library}" in done.stderr
    assert f"pip install -e '.{extra and f'[{extra}]'}'" in done.stderr


def test_a_reader_that_closes_the_pipe_causes_no_error(kept: Path) -> None:
    argv = [sys.executable, "-m", "harness.cli", "export", "--csv", "--results", str(kept)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        os.read(process.stdout.fileno(), 100)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
