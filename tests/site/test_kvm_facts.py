"""What KVM costs stands on the pages of a record and of its machine; function only is by record."""

from __future__ import annotations

import dataclasses
import html
import re
from pathlib import Path

import pytest

pytest.importorskip("jinja2", reason="the site's packages are not installed: pip install .")

from harness.measure import record
from harness.measure.record import RunRecord
from harness.measure.supersession import measured, superseded
from harness.site.builder.build import build
from harness.site.data.estimates import estimates_of
from tests.site import factory, kvm_factory


def built(directory: Path, *records: RunRecord) -> Path:
    for one in records:
        record.write(one, directory / "results")
    build(directory / "results", directory / "out")
    return directory / "out"


def words(page: Path) -> str:
    text = re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8"))
    return " ".join(html.unescape(text).split()).replace(" : ", ": ")


def page_of(out: Path, one: RunRecord) -> Path:
    (found,) = [path for path in (out / "runs").rglob(f"*{one.run_id.lower()}*.html")
                if not re.search(r"\.\d\.html$", path.name)]  # fmt: skip
    return found


def test_the_facts_are_on_the_records_and_the_machines_page(tmp_path: Path) -> None:
    floor = kvm_factory.floor("durable-pool")
    out = built(tmp_path, floor, factory.cold_start("durable-pool"))
    machine = out / "machines/test-host.html"
    for page in (page_of(out, floor), machine):
        text = words(page)
        assert "one exit of a guest’s kernel, by port: 24 µs" in text
        assert "by memory: 29 µs" in text
        assert "in multiples of its time on the host: 1.02" in text
        assert "kernel module: kvm_test" in text
        assert "the host is itself a virtual machine: yes" in text
        assert '<data value="2.4e-05"' in page.read_text(encoding="utf-8")
    assert "one exit of a guest" not in words(page_of(out, factory.cold_start("durable-pool")))


def test_what_was_not_measured_says_why(tmp_path: Path) -> None:
    facts = {**kvm_factory.FACTS, "exit_io_s": None, "reason": "/dev/kvm was taken away (test)"}
    floor = kvm_factory.floor("durable-pool")
    floor = dataclasses.replace(floor, machine=dataclasses.replace(floor.machine, kvm=facts))
    text = words(page_of(built(tmp_path, floor), floor))
    assert "by port: not measured" in text
    assert "why some are not measured: /dev/kvm was taken away (test)" in text


def test_another_fact_is_named_as_its_record_names_it(tmp_path: Path) -> None:
    floor = kvm_factory.floor("durable-pool")
    facts = {**kvm_factory.FACTS, "pages_split": 7}
    floor = dataclasses.replace(floor, machine=dataclasses.replace(floor.machine, kvm=facts))
    assert "pages_split: 7" in words(page_of(built(tmp_path, floor), floor))


def test_a_machine_is_function_only_only_where_all_its_records_are(tmp_path: Path) -> None:
    only = kvm_factory.function_only("full")
    out = built(tmp_path, factory.cold_start("full"), kvm_factory.floor("durable-pool"), only)
    machine = words(out / "machines/test-host.html")
    assert "Function only: 1 of its 3 records." in machine
    assert kvm_factory.EMULATED in machine
    assert "Function only. Records of this machine" not in machine
    runs = (out / "runs.html").read_text(encoding="utf-8")
    line = runs[runs.index('class="machine-line"') :].partition("</p>")[0]
    assert "function only" not in line
    start = (out / "cold-start.html").read_text(encoding="utf-8")
    assert page_of(out, only).stem not in start, "its figures are on no page but its own"
    assert "This run shows that its subject works" in words(page_of(out, only))

    alone = built(tmp_path / "alone", only)
    assert "Function only. Records of this machine" in words(alone / "machines/test-host.html")


def test_in_a_record_of_both_only_guests_with_kernels_prove_function_alone(tmp_path: Path) -> None:
    both = kvm_factory.partly()
    out = built(tmp_path, both)
    page = page_of(out, both).read_text(encoding="utf-8")
    assert page.count("function proved</span>") == len(both.series) // 2
    assert "Its series of guests with kernels of their own show that these work" in page
    machine = words(out / "machines/test-host.html")
    assert "Function only" not in machine
    shown = {float(value) for value in re.findall(r'<data value="([^"]+)"', page)}
    numbers = (out / "numbers.html").read_text(encoding="utf-8")
    listed = {float(value) for value in re.findall(r'<data value="([^"]+)"', numbers)}
    for one in both.series:
        median = estimates_of(one)["p50"].value
        counts = one.dimensions["substrate"] == "kvm-floor"
        assert (median in shown) is counts and (median in listed) is counts, one.dimensions


def test_a_later_record_that_proves_function_supersedes_no_figure(tmp_path: Path) -> None:
    earlier = kvm_factory.partly(day=6)
    counted = dataclasses.replace(
        earlier, series=[dataclasses.replace(one, conditions=None) for one in earlier.series],
        machine=dataclasses.replace(earlier.machine, kvm=kvm_factory.FACTS),
    )  # fmt: skip
    later = kvm_factory.partly(day=7)
    assert earlier.run_id in superseded([measured(earlier), measured(later)])
    assert counted.run_id not in superseded([measured(counted), measured(later)])
