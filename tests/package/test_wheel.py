"""Every command works from an installed wheel, outside of a checkout."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

from harness.measure.record import RunRecord, find, load
from harness.rig.discovery import discover
from tests.package.conftest import ROOT, Installed
from tests.stand_ins.server import standing_in


def measured(installed: Installed) -> list[RunRecord]:
    return [load(path) for path in find(installed.home / "results")]


def test_it_contains_what_runs_and_sites_need(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        built_from = json.loads(archive.read("harness/built-from.json"))
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    ).stdout.strip()
    assert built_from["commit"] == (commit or None)
    assert "harness/py.typed" in names
    rigs = {f"harness/data/rigs/{path.name}" for path in (ROOT / "rigs").glob("test_*.py")}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "harness").rglob("*.[ch]")}
    pages = {
        f"harness/data/{path.relative_to(ROOT)}"
        for path in (ROOT / "site").rglob("*")
        if path.is_file()
    }
    assert names >= rigs | sources | pages
    assert any(name.startswith("harness/data/patches/") for name in names)
    assert any(name.startswith("harness/data/results/published/") for name in names)
    assert not [name for name in names if name.endswith(".pyc") or "/results/amd" in name]


def test_the_doctor_knows_the_rigs(installed: Installed) -> None:
    found = json.loads(installed("coppice", "doctor", "--json").stdout)
    assert set(found["rigs"]) >= set(discover().found)
    assert found["substrates"]["noop"]["runs"] is True


def test_run_then_every_command_that_reads_records(installed: Installed) -> None:
    done = installed("coppice", "run", "cold-start", "--substrate", "noop")
    assert done.returncode == 0, done.stdout + done.stderr
    records = measured(installed)
    assert records, "records go to ./results"
    assert f"records: results/{records[0].machine.id}" in done.stdout
    version = installed("coppice", "--version").stdout.split()[1]
    for record in records:
        assert record.rig.path == "rigs/test_cold_start.py" and record.rig.distribution is None
        assert record.harness.version == version
        assert record.command.task.startswith("coppice run cold-start --substrate noop")
        assert str(installed.bin.parent / "lib") not in " ".join(record.command.argv[3:4])
    compared = installed(
        "coppice", "compare", "concurrency=1", "concurrency=10", "--fail-on", "never", "--suspect"
    )
    assert compared.returncode == 0, compared.stderr
    (path, *_) = find(installed.home / "results")
    exported = installed("coppice", "export", "--pyperf", str(path))
    assert json.loads(exported.stdout)["benchmarks"]
    assert installed("coppice", "export", "--ro-crate").returncode == 0
    site = installed("coppice", "site")
    assert site.returncode == 0, site.stderr
    assert (installed.home / "_site/index.html").exists()
    chart = installed("coppice", "chart", "--help")
    assert chart.returncode == 0, chart.stderr


def test_a_service_that_coppice_toml_names_is_measured(installed: Installed) -> None:
    with standing_in() as service:
        (installed.home / "coppice.toml").write_text(
            f'[endpoints.there]\naddress = "{service.address}"\nsystem = "stand-in"\n'
            'api-key-env = "KEY_OF_THERE"\nmost-sandboxes = 2\nmost-per-second = 99\n',
            encoding="utf-8",
        )
        arguments = ("run", "e2b-latency", "--endpoint", "there", "--n", "1", "--results", "there")
        own = {"KEY_OF_THERE": service.key, "COPPICE_STATE": str(installed.home / "state")}
        done = installed("coppice", *arguments, **own)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(service.service.made) == 9 and service.alive == []
    (path,) = find(installed.home / "there")
    record = load(path)
    assert record.endpoint is not None and record.endpoint.name == "there"
    assert record.command.task == "coppice run e2b-latency --endpoint there --n 1"


def test_commands_that_need_no_record(installed: Installed) -> None:
    assert installed("coppice", "clean", "--dry-run").returncode == 0
    keys = installed("coppice", "gateway", "--help")
    assert keys.returncode == 0 and "--substrate" in keys.stdout


def test_an_error_is_a_message_and_a_code(installed: Installed) -> None:
    done = installed("coppice", "run", "no-such-rig")
    assert done.returncode == 64 and "rigs: cold-start" in done.stderr
    done = installed("coppice", "site", "--results", "nowhere")
    assert done.returncode == 64 and "Traceback" not in done.stderr
