"""Which kernel guests get, and how a record says so."""

from __future__ import annotations

import argparse
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from harness.claims.answering import answers
from harness.claims.claims import Answer
from harness.errors import ImageError, UsageError
from harness.guest import kernel, kernel_choice
from harness.measure.conditions import GUEST_KERNEL
from harness.measure.record import Image, Series
from harness.rig import guest_kernel, kernel_option
from harness.rig.discovery import discover

SEGMENT = struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(kernel.PVH[1]), 0, 4)
ELF_KERNEL = b"".join(
    (
        b"\x7fELF\x02\x01\x01" + bytes(9),
        struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, len(SEGMENT), 1, 0, 0, 0),
        SEGMENT,
        kernel.PVH[1],
    )
)
"""A header and one segment, the note with the entry."""


def _options(**given: Any) -> argparse.Namespace:
    usual: dict[str, Any] = {
        "kernel": None,
        "interleave": None,
        "substrate": [],
        "rig": "cold-start",
    }
    return argparse.Namespace(**{**usual, **given})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (kernel_choice.VARIABLE, kernel_choice.MODULES, kernel_option.INITRAMFS):
        # Set first, so that what a test's code puts there is undone.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("COPPICE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_slim_kernel_that_was_not_built_names_the_command(cache: Path) -> None:
    with pytest.raises(ImageError, match="has not been built on this host") as told:
        kernel_choice.chosen(cache, {kernel_choice.VARIABLE: "slim"})
    assert told.value.hint is not None
    assert told.value.hint.startswith("coppice kernel build")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "neither an ELF"),
        (b"#!/bin/sh\n" * 100, "neither an ELF"),
        (Path("/bin/true").resolve().read_bytes(), "no x86-64 kernel with a PVH entry"),
        (b"\x7fELF", "no x86-64 kernel with a PVH entry"),
    ],
)
def test_a_file_that_is_no_kernel_gives_one_error(content: bytes, why: str, tmp_path: Path) -> None:
    file = tmp_path / "kernel"
    file.write_bytes(content)
    with pytest.raises(ImageError, match=why):
        kernel_option.take(_options(kernel=str(file)), [])


def test_a_pipe_is_no_kernel(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kernel")
    with pytest.raises(ImageError, match="is not a file"):
        kernel_option.take(_options(kernel=str(tmp_path / "kernel")), [])


def test_a_vmlinux_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "kernel"
    for kept in (len(ELF_KERNEL) - 1, 100, 40):
        file.write_bytes(ELF_KERNEL[:kept])
        with pytest.raises(ImageError, match=r"truncated|PVH"):
            kernel_option.take(_options(kernel=str(file)), [])


def test_a_kernel_of_choice_is_a_file_or_a_name(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "vmlinux-6"
    file.write_bytes(ELF_KERNEL)
    environment = {kernel_choice.VARIABLE: str(file)}
    assert kernel_choice.chosen(cache, environment).vmlinux == file
    assert kernel_choice.label(environment) == "vmlinux-6"
    assert kernel_choice.label({}) == "distribution"
    with pytest.raises(UsageError, match="needs no other modules"):
        kernel_choice.chosen(
            cache, {kernel_choice.VARIABLE: "slim", kernel_choice.MODULES: str(tmp_path)}
        )


def test_one_kernel_goes_into_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "vmlinux"
    file.write_bytes(ELF_KERNEL)
    monkeypatch.chdir(tmp_path)
    options = _options(kernel="vmlinux")
    kernel_option.take(options, [discover().found["cold-start"].info])
    assert kernel_choice.named() == str(file)
    assert options.interleave is None


def test_two_kernels_are_compared_on_the_substrates_that_take_them() -> None:
    options = _options(kernel="slim,distribution")
    kernel_option.take(options, [discover().found["cold-start"].info])
    assert options.interleave == ["COPPICE_KERNEL=slim", "COPPICE_KERNEL=distribution"]
    assert options.substrate == ["qemu"]
    assert kernel_choice.named() == "distribution"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"kernel": "slim,slim"}, "two kernels that differ"),
        ({"kernel": "slim,distribution,/boot/x"}, "two kernels that differ"),
        ({"kernel": "slim,"}, "name is empty"),
        ({"kernel": "slim,distribution", "interleave": ["tier=full", "tier=durable-pool"]},
         "interleave of its own"),
        ({"kernel": "slim", "substrate": ["noop"]}, "none of the chosen substrates"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        kernel_option.take(_options(**given), [discover().found["cold-start"].info])


def _series(**dimensions: str) -> Series:
    return Series("first-exec", "s", "lower", dimensions, "closed", samples=[1.0])


def test_series_of_guests_name_a_kernel_of_choice() -> None:
    def image(choice: str) -> Image:
        return Image("guest", "0" * 64, {"kernel_choice": choice})

    assert guest_kernel.named([Image("agent", "0" * 64, {}), image("slim")]) == "slim"
    assert guest_kernel.named([image("distribution")]) is None
    for dimensions, of_guests in (
        ({"substrate": "qemu"}, True),
        ({"substrate": "oci-raw"}, False),
        ({"substrate": "a service"}, False),
        ({"path": "microvm"}, True),
        ({"path": "veth"}, False),
        ({"mechanism": "nftables"}, False),
        ({"sdk": "http"}, True),
    ):
        marked = guest_kernel.marked(_series(**dimensions), "slim")
        assert marked.dimensions.get(GUEST_KERNEL) == ("slim" if of_guests else None), dimensions
        assert guest_kernel.marked(_series(**dimensions), None).dimensions == dimensions


def test_a_kernel_of_choice_answers_no_claim_about_the_usual_one() -> None:

    def answer(**where: str) -> Answer:
        return Answer("cold-start", "first-exec", "p50", "at-most", True, "alike", "bench", where)

    own = {"substrate": "qemu", GUEST_KERNEL: "slim"}
    assert answers({"substrate": "qemu"}, answer(substrate="qemu"))
    assert not answers(own, answer(substrate="qemu"))
    assert answers(own, answer(**own))
