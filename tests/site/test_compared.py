"""The comparison's cells: what is read of a record, and what is worked out of it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("jinja2", reason="the site's packages are not installed: pip install .")

from harness.measure import record
from harness.measure.record import Rig, Scalar, Series
from harness.site.builder.build import build
from tests.site import factory

MIB = 1 << 20


def _one(metric: str, value: float, unit: str = "1", **dimensions: Scalar) -> Series:
    return Series(metric, unit, "lower", dimensions, "closed", (), [value] * 5)  # type: ignore[arg-type]


def test_cells_say_what_the_record_says(tmp_path: Path) -> None:
    qemu: dict[str, str] = {"substrate": "qemu", "tier": "durable-pool"}
    docker: dict[str, str] = {"substrate": "docker", "tier": "full"}
    base = factory.cold_start("durable-pool")
    made = replace(
        base,
        rig=Rig("compare", "rigs/test_compare.py", "0" * 64),
        series=(
            _one("own-kernel", 1, **qemu), _one("state-survives", 1, **qemu),
            *(
                _one("reached", int(target in ("allowed", "host")), **qemu, target=target,
                     policy="one")
                for target in ("neighbour", "host", "denied", "allowed")
            ),
            _one("own-kernel", 1, **docker), _one("cards", 0, **docker),
            _one("state-survives", 0, **docker),
            _one("paired-run", 0.060, "s", substrate="oci-overlay", tier="full",
                 beside="oci-overlay"),
            _one("plain-run", 0.050, "s", program="runc", beside="oci-overlay"),
            _one("host-change", 700.0 * MIB, "bytes", **qemu, n=50, up=50),
            _one("host-change", 2200.0 * MIB, "bytes", **qemu, n=200, up=200),
        ),
    )  # fmt: skip
    record.write(made, tmp_path / "results")
    build(tmp_path / "results", tmp_path / "out")
    text = (tmp_path / "out/compare.html").read_text(encoding="utf-8")
    plain = " ".join(re.sub(r"<[^>]+>", " ", text).split())
    rows = {
        name: " ".join(
            re.sub(r"<[^>]+>", " ", row)
            for row in re.findall(r"<tr>.*?</tr>", text, re.S)
            if f'<th scope="row">{name}<' in row
        )
        for name in ("qemu", "docker")
    }
    # 10 MiB for one more, by the slope, of the 8 GiB that the made-up machine has: two digits.
    assert re.search(r"\b820\b", rows["qemu"]), rows
    assert "also reaches host" in rows["qemu"] and "state on disk" in rows["qemu"]
    assert "no NIC" in rows["docker"] and "starts from scratch" in rows["docker"]
    assert re.search(r"oci-overlay .* took 50 ms .*ours 60 ms .*ratio of the pairs is 1\.2", plain)
    front = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    table = front[front.index('id="comparison"') :]
    isolation, network = (
        re.findall(
            "<td[^>]*>(.*?)</td>", table[table.index(f">{title}<") :].split("</tr>")[0], re.S
        )
        for title in ("Isolation", "Network policy")
    )
    # It said that docker's kernel is its own: the record's word goes before ours.
    assert re.fullmatch(r'<a href="runs/[^"]+">own kernel</a>', isolation[1])
    assert network[1].endswith(">no NIC</a>")
    assert "also reaches host" in network[5]
